"""Take an optimizer, give one."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
