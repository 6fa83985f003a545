"""How Sphinx builds the site: `make docs`."""

import importlib.util
import os
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # many-devices

import gdjax  # noqa: E402  (after the flags that JAX reads)

project = "gdjax"
author = "gdjax contributors"
copyright = "2026, gdjax contributors"
version = release = gdjax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "reference",
    "links",
    "explore",
    "running",
]
exclude_patterns = [
    *("build", "tutorials", "sg_execution_times.rst"),
    *("generated/**/*.ipynb", "generated/**/*.py"),
]
html_theme = "furo"
html_title = f"gdjax {version}"
# MathJax is copied beside the pages, so that formulas are set without network.
mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static"
html_static_path = ["static", str(mathjax)]
mathjax_path = "mathjax/tex-chtml.js"
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_copy_source = False

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

# Docstrings: `name` is a link where it names something that is documented.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 72
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def reachable(inventories):
    """Keep the sites whose inventory can be read now; without network no link leads outside."""
    found = {}
    for name, address in inventories.items():
        try:
            with urllib.request.urlopen(f"{address}objects.inv", timeout=5):
                found[name] = (address, None)
        except OSError as error:
            print(f"no links to {name}: {address}objects.inv cannot be read ({error})")
    return found


intersphinx_mapping = reachable(
    {
        "jax": "https://docs.jax.dev/en/latest/",
        "numpy": "https://numpy.org/doc/stable/",
        "flax": "https://flax.readthedocs.io/en/latest/",
        "equinox": "https://docs.kidger.site/equinox/",
        "optax": "https://optax.readthedocs.io/en/latest/",
    }
)


sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "../examples"],
    "gallery_dirs": ["generated/tutorials", "generated/examples"],
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"(__init__|conftest)\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "running.arguments",
    "reset_modules": ("matplotlib", "running.reset_jax"),
    "abort_on_example_error": True,
    "parallel": 2,  # in processes that are started, not forked: JAX does not survive a fork
    "show_memory": False,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "default_thumb_file": str(HERE / "static" / "favicon.svg"),
}
