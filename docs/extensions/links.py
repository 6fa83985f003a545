"""How names in docstrings and signatures become links; a Sphinx extension."""

import inspect
import re

from docutils import nodes
from factories import linked
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

from gdjax.namespace import HOMES


def resolve(app, env, node, contnode):
    """Find what is named by the module that defines it, or without its module."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py":
        return None
    for full_name in (f"gdjax.{name}", f"gdjax.core.types.{name}"):
        found = env.domains.python_domain.objects.get(full_name)
        if found and node["reftarget"] in (name, full_name, f"{HOMES.get(name)}.{name}"):
            to = found.docname, found.node_id
            return make_refnode(app.builder, node["refdoc"], *to, contnode, full_name)
    return None


def link_papers(app, what, name, value, options, lines):
    """Let the numbers of papers in docstrings be links."""
    lines[:] = linked("\n".join(lines)).split("\n")


def unlink_arguments(app, doctree):
    """Let no argument in the text of its function be a link to a function of that name."""
    for function in doctree.findall(addnodes.desc):
        named = [p.astext() for p in function.findall(addnodes.desc_parameter)]
        named = {re.match(r"\**(\w*)", text)[1] for text in named}
        for node in list(function.findall(addnodes.pending_xref)):
            if node.get("reftype") == "obj" and node["reftarget"] in named:
                node.replace_self(nodes.literal(text=node.astext(), classes=["py"]))


class Written:
    """A default value that is shown as it is written."""

    def __init__(self, text):
        """Keep the text."""
        self.text = text

    def __repr__(self):
        """Return the text."""
        return self.text


def keep_names(app, function, bound):
    """Let signatures show the names of types as the code has them, and of functions."""
    if not inspect.isfunction(function) or not function.__module__.startswith("gdjax."):
        return
    signature = inspect.signature(function)
    parameters = [p.replace(default=_shown(p.default)) for p in signature.parameters.values()]
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    function.__annotations__ = {}  # which Sphinx would evaluate


def _shown(default):
    if type(default).__name__ == "Optimizer":
        return Written(f"{default.update.__name__}()")
    if callable(default) and hasattr(default, "__name__") and not inspect.isclass(default):
        return Written(default.__name__)
    return default


def name_in_package(app, doctree):
    """Let pages of source code lead back to names that `gdjax` itself does not have.

    `sphinx.ext.viewcode` looks for all functions of a file under the package of the first one.
    """
    signatures = list(doctree.findall(addnodes.desc_signature))
    taken = {name for signature in signatures for name in signature["ids"]}
    for signature in signatures:
        name = f"gdjax.{signature.get('fullname')}"
        if str(signature.get("module")).startswith("gdjax.") and name not in taken:
            signature["ids"].append(name)


def setup(app):
    """Register the extension."""
    app.connect("autodoc-before-process-signature", keep_names)
    app.connect("autodoc-process-docstring", link_papers)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", unlink_arguments)
    app.connect("doctree-read", name_in_package)
    return {"parallel_read_safe": True}
