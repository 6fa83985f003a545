"""Which names in docstrings are links; a Sphinx extension."""

import re

from docutils import nodes
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


def unlink_arguments(app, doctree):
    """Let no argument in the text of its function be a link to a function of that name."""
    for function in doctree.findall(addnodes.desc):
        named = [p.astext() for p in function.findall(addnodes.desc_parameter)]
        named = {re.match(r"\**(\w*)", text)[1] for text in named}
        for node in list(function.findall(addnodes.pending_xref)):
            if node.get("reftype") == "obj" and node["reftarget"] in named:
                node.replace_self(nodes.literal(text=node.astext(), classes=["py"]))


def setup(app):
    """Register the extension."""
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", unlink_arguments)
    return {"parallel_read_safe": True}
