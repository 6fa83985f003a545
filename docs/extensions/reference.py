"""Write the pages of the reference; a Sphinx extension.

Each optimizer has a page. The other public names are grouped as in `gdjax/__init__.pyi`, a page for
each group, and so are the names of the modules that have their own.
"""

import enum
import functools
import inspect
import re
import types
from pathlib import Path

from factories import (
    FACTORIES,
    LEVELS,
    SOLVERS,
    evidence,
    good_for,
    linked,
    notes,
    numbers,
    paper,
    summary,
)

import gdjax
from gdjax.namespace import HOMES

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
STUB = ROOT / "src" / "gdjax" / "__init__.pyi"
TYPES = ROOT / "src" / "gdjax" / "core" / "types.py"

# Group of the stub -> the package whose names it has; its docstring is the introduction.
PACKAGES = {
    "Losses": "losses",
    "Schedules": "schedules",
    "Transforms": "transforms",
    "Wrappers": "wrappers",
    "Solvers": "solvers",
    "Whole runs": "training",
    "Batches in parts": "microbatching",
}
# Modules whose names are not those of `gdjax` -> the title of their page.
MODULES = {
    "assignment": "Assignment",
    "callbacks": "Callbacks",
    "models": "Models",
    "perturbations": "Perturbations",
    "projections": "Projections",
    "proximal": "Proximal operators",
    "second_order": "Second-order information",
    "tree": "Trees",
}
TITLES = {"The contract": "The interface of an optimizer"}


def contents():
    """Return page -> the full names that it documents; pages are paths below the reference.

    Every public name has exactly one page: a test checks it.
    """
    pages = {"optimizers/index": ["gdjax.optimizers"]}
    for name in FACTORIES + SOLVERS:
        pages[_page_of(name)] = [f"gdjax.{name}"]
    for group, names in _groups().items():
        for name in names:
            pages.setdefault(_place(group, name), []).append(f"gdjax.{name}")
    for group, package in PACKAGES.items():
        own = [f"gdjax.{package}", *_own_names(f"gdjax.{package}")]
        pages.setdefault(_slug(group), []).extend(own)
    for module in MODULES:
        pages[module.replace("_", "-")] = [f"gdjax.{module}", *_own_names(f"gdjax.{module}")]
    pages["compat"] = ["gdjax.compat", "gdjax.compat.install", "gdjax.compat.optax"]
    return pages


def _groups():
    """Return group -> names of the stub, in its order; modules and optimizers are left out."""
    found = {}
    for line in STUB.read_text().splitlines():
        if line.startswith("# "):
            names = found.setdefault(line[2:].partition(":")[0], [])
        elif match := re.search(r" as (\w+),?$", line):
            module = isinstance(getattr(gdjax, match[1]), types.ModuleType)
            if not module and match[1] not in FACTORIES + SOLVERS:
                names.append(match[1])
    return found


def _place(group, name):
    """Return the page of a name that has none of its own."""
    home = HOMES[name]
    beside = [f for f in FACTORIES + SOLVERS if HOMES[f] == home]
    if beside and (name.startswith("scale_by_") or beside[0] in FACTORIES):
        liked = [name.removeprefix("scale_by_"), home.rpartition(".")[2], beside[0]]
        return _page_of(next(like for like in liked if like in beside))
    return _slug("Transforms" if home.startswith("gdjax.transforms.") else group)


def _page_of(name):
    return f"{'optimizers' if name in FACTORIES else 'solvers'}/{name}"


def _slug(group):
    return "solvers/index" if group == "Solvers" else group.lower().replace(" ", "-")


def _own_names(module):
    """Return the public names of a module that `gdjax` does not have, with the module's."""
    found = _value(module)
    names = [n for n in dir(found) if not n.startswith("_") and _is_of(getattr(found, n), module)]
    mine = [n for n in names if getattr(gdjax, n, None) is not getattr(found, n)]
    return [f"{module}.{name}" for name in mine]


def _value(full_name):
    """Return what a name stands for."""
    return functools.reduce(getattr, full_name.split(".")[1:], gdjax)


def _is_of(value, module):
    """Return whether a function or class is made in a module, and not imported there."""
    of = getattr(value, "__module__", None)
    return callable(value) and (of == module or str(of).startswith(f"{module}."))


# --- one page of several names ---


def _object(full_name):
    """Return the directive for a public name."""
    value = _value(full_name)
    if isinstance(value, types.ModuleType):
        return ""
    if inspect.isclass(value):
        options = "   :members:\n"
        if issubclass(value, enum.Enum):
            options += "   :undoc-members:\n"
        elif fields := ", ".join(getattr(value, "_fields", ())):  # the docstring has them
            options += f"   :exclude-members: {fields}\n"
        return f".. autoclass:: {full_name}\n{options}\n"
    kind = "autofunction" if callable(value) else "autodata"
    return f".. {kind}:: {full_name}\n\n"


def _title(text):
    return f"{text}\n{'=' * len(text)}\n\n"


def _table(rows, widths, classes=""):
    """Return a table; the first row has the titles."""
    text = f".. list-table::\n   :header-rows: 1\n   :widths: {widths}\n"
    text += f"   :class: {classes}\n\n" if classes else "\n"
    for row in rows:
        cells = [f"{'-' if i else '* -'} {cell}" for i, cell in enumerate(row)]
        text += f"   {cells[0]}\n" + "".join(f"     {cell}\n" for cell in cells[1:])
    return text + "\n"


def _evidence(function):
    """Return the cell of a table for what a docstring says of comparisons."""
    found = evidence(function)
    return f"**{found[0]}**. {linked(found[1])}" if found else ""


def _names_page(title, names, module=""):
    """Return a page: the docstring of a module, a table of names, and what they are."""
    text = _title(title)
    if module:
        text += f".. automodule:: gdjax.{module}\n\n"
    text += ".. currentmodule:: gdjax\n\n"
    names = [n for n in names if _object(n)]
    rows = [(f":py:obj:`{n.removeprefix('gdjax.')} <{n}>`", _summary(n)) for n in names]
    table = _table([("name", "summary"), *rows], "auto", "names")
    return text + table + _evidence_section(names) + "".join(map(_object, names))


def _evidence_section(names):
    """Return a table of what is known of the names that have evidence."""
    rows = [(f"`{n.removeprefix('gdjax.')}`", _evidence(_value(n))) for n in names if _states(n)]
    if not rows:
        return ""
    return _section("Evidence") + _LEVELS_ARE + _table([("name", "evidence"), *rows], "20 80")


def _states(name):
    value = _value(name)
    return inspect.isfunction(value) and value.__doc__ and evidence(value)


_LEVELS_ARE = (
    "The levels are those of the :doc:`optimizers </generated/reference/optimizers/index>`.\n\n"
)


def _summary(full_name):
    value = _value(full_name)
    return summary(value) if callable(value) else ""


# --- the page of one optimizer ---


def _optimizer_page(name, names, found):
    factory = getattr(gdjax, name)
    text = _title(name) + ".. currentmodule:: gdjax\n\n" + _object(f"gdjax.{name}")
    text += _state_section(name, factory, found)
    text += _paths_section(name, found)
    text += _paper_section(factory)
    text += _related_section(name)
    others = [n for n in names if n != f"gdjax.{name}"]
    if others:
        text += _section("Related functions") + "".join(map(_object, others))
    return text


def _section(title):
    return f"{title}\n{'-' * len(title)}\n\n"


def _state_section(name, factory, found):
    text = _section("Memory, inputs and numbers")
    text += f"State: {_memory(name, found)}.\n\n"
    if name in FACTORIES:
        needs = found[name]["needs"]
        text += "`update` needs gradients and state"
        text += (
            f", and also {', '.join(f'``{key}``' for key in needs)}.\n\n" if needs else " only.\n\n"
        )
    rows = [
        (f"``{key}``", "required" if value is inspect.Parameter.empty else f"``{value}``", allowed)
        for key, (value, allowed) in numbers(factory).items()
    ]
    if rows:
        text += _table([("number", "default", "range"), *rows], "auto")
    return text


def _memory(name, found):
    sizes = found[name]["bytes"]
    if name in FACTORIES:
        return f"{_sizes(sizes)} bytes for each float32 parameter, measured {_MEASURED}"
    terms = [f"{sizes[0]} n² bytes"] * bool(sizes[0]) + [f"{sizes[1]} n bytes"] * bool(sizes[1])
    grows = " + ".join(terms).replace(" bytes +", " +")
    return f"{grows} for n float32 parameters, measured" if terms else "a few numbers"


_MEASURED = "for a matrix of 256 x 256 with default options and with those of the tests"


def _sizes(sizes):
    return " to ".join(f"{x:g}" for x in sizes)


def _paths_section(name, found):
    from paths import FUNCTIONS, LAST, REMARKS, START, STARTS, STEPS, picture

    runs, compared = found[name]["paths"], found["gradient_descent"]["paths"]
    rates = [runs[f]["rate"] for f in FUNCTIONS]
    figures = ""
    for function, text in zip(FUNCTIONS, ("Rosenbrock's function", "a quadratic"), strict=True):
        text = f"Path of {name} on {text}"
        figures += picture(function, runs[function]["points"], compared[function]["points"], text)
    text = _section("Its path on two functions")
    text += f".. raw:: html\n\n   <div class='paths'>{figures}</div>\n\n"
    text += f"{STEPS} steps from {STARTS.get(name, START)}: on Rosenbrock's function, and on a "
    text += "quadratic with curvatures 1 and 20"
    text += ". " if name in SOLVERS else " and noise of standard deviation 1 in each gradient. "
    if rates[0] is None:
        text += "It finds its step sizes itself. "
    else:
        text += f"The learning rates are {rates[0]:g} and {rates[1]:g}, those of 22 between 1e-5 "
        text += f"and 100 with the smallest mean value in the last {LAST} steps. "
    text += "The parameters are a matrix of 2 x 1. "
    if name in REMARKS:
        text += f"{REMARKS[name]} "
    return text + "The thin line is gradient descent, with its own best learning rates.\n\n"


def _paper_section(factory):
    text = ""
    for label, body in notes(factory).items():
        listed = body.startswith("- ")
        if label == "Papers":  # each on a line of its own
            body = re.sub(r"(https://\S+[^,;\s])\n", r"\1\n\n", body)
        text += f"**{label}:**{chr(10) * 2 if listed else ' '}{_escaped(body, listed)}\n\n"
    return _section("Papers, symbols and deviations") + text if text else ""


def _escaped(text, listed=False):
    """Return text as reST shows it as it is, except for lists and what is between backticks."""
    parts = re.split(r"(`[^`]*`|https://\S+)", text)
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part).replace("->", "→") for part in parts[::2]]
    text = "".join(parts)
    return text if listed else re.sub(r"^- ", r"\\- ", text, flags=re.MULTILINE)


def _related_section(name):
    same = [n for n in FACTORIES + SOLVERS if HOMES[n] == HOMES[name] and n != name]
    text = f"Of the same family: {', '.join(f'`{n}`' for n in same)}.\n\n" if same else ""
    used = [f":doc:`{title} </{page}>`" for page, title, source in _pages() if _uses(source, name)]
    text += f"Pages that use it: {', '.join(used)}.\n\n" if used else ""
    return _section("See also") + text if text else ""


@functools.cache
def _pages():
    """Return page, title and text of the guides, the tutorials and the examples."""
    found = []
    for file in sorted((DOCS / "guides").glob("*.md")):
        if file.stem != "terms":
            text = file.read_text()
            title = re.search(r"^# (.*)", text, re.MULTILINE)[1]
            found.append((f"guides/{file.stem}", title, text))
    for folder in ("tutorials", "examples"):
        at = DOCS / folder if folder == "tutorials" else ROOT / folder
        for file in sorted(at.glob("*.py")):
            text = file.read_text()
            title = re.search(r'"""\s*(.*?)\n', text)[1].replace("`", "").rstrip(".")
            found.append((f"generated/{folder}/{file.stem}", title, text))
    return found


def _uses(text, name):
    return re.search(rf"`{name}[`(]|gdjax\.{name}\b", text)


# --- tables, types and the whole ---


def _optimizers_index(found):
    text = _title("Optimizers") + ".. py:module:: gdjax.optimizers\n\n.. currentmodule:: gdjax\n\n"
    text += (
        "Each name leads to its page. The bytes of state are those for each float32 parameter, "
        f"measured {_MEASURED}. ``params`` under *also needs* means "
        "``update(grads, state, params)``; other names are keyword arguments, as in "
        "``update(grads, state, params, value=loss)``. Methods for exact gradients, such "
        "as `lbfgs`, are on the page of :doc:`solvers <../solvers/index>`; "
        ":doc:`/guides/how-to-choose` has advice. *Good for* names the problems for which a method "
        "was made, *evidence* what comparisons have found:\n\n"
    )
    text += "".join(f"{level}\n   {meaning}\n" for level, meaning in LEVELS.items()) + "\n"
    titles = ("optimizer", "what it does", "evidence", "bytes of state", "also needs", "paper")
    rows = [titles]
    for name in FACTORIES:
        factory = getattr(gdjax, name)
        needs = ", ".join(f"``{key}``" for key in found[name]["needs"])
        does = f"{summary(factory)} *Good for* {good_for(factory)}."
        cells = [f":doc:`{name}`", does, _evidence(factory)]
        cells += [_sizes(found[name]["bytes"]), needs, f"`paper <{paper(factory)}>`__"]
        rows.append(cells)
    return text + _table(rows, "13 31 37 7 7 5", "optimizers") + _toctree(FACTORIES)


def _solvers_index(names):
    text = _names_page("Solvers", names, "solvers")
    methods = [(f":doc:`{name}`", getattr(gdjax, name)) for name in SOLVERS]
    rows = [(name, summary(factory), _evidence(factory)) for name, factory in methods]
    titles = ("method", "what it does", "evidence")
    table = _section("Methods") + _LEVELS_ARE + _table([titles, *rows], "20 40 40")
    before, after = text.split(".. list-table::", 1)
    return f"{before}{table}{_toctree(SOLVERS)}{_section('Loops, results and parts')}" + (
        f".. list-table::{after}"
    )


def _toctree(pages, hidden=True):
    entries = "".join(f"   {page}\n" for page in pages)
    return f".. toctree::\n   :maxdepth: 1\n{'   :hidden:' * hidden}\n\n{entries}\n"


def aliases():
    """Return name -> (definition, meaning) of the types in signatures."""
    found = {}
    for line in TYPES.read_text().splitlines():
        if match := re.match(r"(\w+): TypeAlias = (.*?)(?:  # (.*))?$", line):
            found[match[1]] = match[2], match[3] or ""
    return found


def _types_page():
    text = _title("Types in signatures")
    text += "What the names mean that annotate arguments and results.\n\n"
    text += ".. py:currentmodule:: gdjax.core.types\n\n"
    for name, (definition, meaning) in aliases().items():
        canonical = "" if definition.endswith("[") else f"   :canonical: {definition}\n"
        text += f".. py:type:: {name}\n{canonical}\n   {_sentence(MEANINGS.get(name, meaning))}\n\n"
    return text


# Where the comment in the code is no sentence for readers.
MEANINGS = {
    "ArrayTree": "a tree whose leaves are arrays or numbers",
    "TreeDef": "the structure of a tree, `jax.tree_util.PyTreeDef`",
    "ScheduleFn": "a function of the step count, such as a `Schedule`",
    "PrefixTree": "a tree of numbers whose leaves stand for parts of the parameters, or `by_path`",
    "Mask": "which leaves take part: a boolean, a tree of booleans, or a function of the "
    "parameters that returns one",
    "DType": "a dtype; None is the default that the docstring names",
    "FloatDType": "a real floating dtype of at least 16 bits; None is the default",
    "SlotDType": "the dtype of a slot, or the name of a code; see `with_slot_dtypes`",
    "AxisName": "the name of an axis of `jax.vmap`, `jax.pmap` or `jax.shard_map`",
    "Rule": "a function of one array or tree; see `leafwise`",
    "LossFn": "a function of the parameters, and usually a batch, that returns a real number, or "
    "that and auxiliary output",
    "Pair": "an `(init, update)` pair of gdjax or of another library",
}


def _sentence(text):
    return f"{text[:1].upper()}{text[1:]}."


def _compat_page():
    text = _title("Other libraries' names")
    for module in ("gdjax.compat", "gdjax.compat.optax"):
        text += f".. automodule:: {module}\n\n"
    text += ".. currentmodule:: gdjax\n\n" + _object("gdjax.compat.install")
    return text + (
        "`gdjax.compat.optax` has all public names of optax, with optax's arguments and states; "
        "optax's documentation describes them, and :doc:`/guides/migrating` the differences.\n"
    )


def pages(found):
    """Yield path and text of every page.

    Args:
      found: what `measured.measured` returns.
    """
    where = contents()
    groups = {_slug(group): group for group in _groups()}
    for page, names in where.items():
        folder, _, name = page.rpartition("/")
        if page == "optimizers/index":
            yield page, _optimizers_index(found)
        elif page == "solvers/index":
            yield page, _solvers_index(names)
        elif folder:
            yield page, _optimizer_page(name, names, found)
        elif page == "compat":
            yield page, _compat_page()
        elif page in groups:
            group = groups[page]
            yield page, _names_page(TITLES.get(group, group), names, PACKAGES.get(group, ""))
        else:
            module = page.replace("-", "_")
            yield page, _names_page(MODULES[module], names, module)
    yield "types", _types_page()
    tops = [page for page in where if "/" not in page or page.endswith("/index")]
    text = _title("Reference")
    text += "Optimizers and solvers have a page each; other public names are in groups.\n\n"
    yield "index", text + _toctree([*tops, "types"], hidden=False)


def write(app):
    """Write the pages that have changed, so that only those are read again."""
    from measured import measured

    found = measured(DOCS / "generated" / "measured.json")
    folder = DOCS / "generated" / "reference"
    texts = {folder / f"{page}.rst": text for page, text in pages(found)}
    for file in {*folder.rglob("*.rst"), *folder.rglob("*.md")} - texts.keys():
        file.unlink()
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def setup(app):
    """Register the extension."""
    app.connect("builder-inited", write)
    # An alias such as `tuple[...]` says that it is of `builtins`, which has no page of source code.
    app.connect(
        "viewcode-follow-imported",
        lambda app, module, name: module if module == "gdjax.core.types" else None,
    )
    return {"parallel_read_safe": True}
