"""Write the pages of the reference, grouped as `gdjax/__init__.pyi` is; a Sphinx extension."""

import re
from pathlib import Path

HERE = Path(__file__).parent.parent
STUB = HERE.parent / "src" / "gdjax" / "__init__.pyi"


def groups():
    """Return the public names of each group of the stub, in its order."""
    found = {}
    for line in STUB.read_text().splitlines():
        if line.startswith("# "):
            names = found.setdefault(line[2:], [])
        elif match := re.search(r" as (\w+),?$", line):
            names.append(match[1])
    return found


def write(app):
    """Write one page a group."""
    folder = HERE / "generated" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    index = "# Reference\n\n```{toctree}\n:maxdepth: 2\n\n"
    for title, names in groups().items():
        page = title.lower().replace(" ", "-").replace(",", "")
        index += f"{page}\n"
        text = f"{title}\n{'=' * len(title)}\n\n.. currentmodule:: gdjax\n\n"
        text += "\n\n".join(f".. autodata:: {n}" if not callable(getattr(__import__("gdjax"), n)) else (f".. autoclass:: {n}\n   :members:" if isinstance(getattr(__import__("gdjax"), n), type) else f".. autofunction:: {n}") for n in names)
        (folder / f"{page}.rst").write_text(text + "\n")
    (folder / "index.md").write_text(index + "```\n")


def setup(app):
    """Register the extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
