"""How sphinx-gallery runs the tutorials and examples; a Sphinx extension."""

import os
import shutil
from pathlib import Path

import jax


def arguments(gallery, script):
    """Return the command line of a script: examples are short if the whole build is."""
    example = Path(script["src_file"]).parent.name == "examples"
    return ["--quick"] if example and os.environ.get("DOCS") == "quick" else []


def reset_jax(gallery, name):
    """Let no script see the configuration or the programs that another one left."""
    jax.config.update("jax_enable_x64", False)
    jax.clear_caches()


def copy_reports(app, exception):
    """Copy the pages that examples/report.py wrote, beside the page of that example."""
    output = Path(app.srcdir).parent / "examples" / "output"
    if os.environ.get("DOCS") == "quick":
        output = output / "quick"
    folder = Path(app.outdir) / "generated" / "examples" / "report"
    for name in ("sweep.html", "fit.html"):
        if exception is None and (output / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(output / name, folder)


def setup(app):
    """Register the extension."""
    app.connect("build-finished", copy_reports)
    return {"parallel_read_safe": True}
