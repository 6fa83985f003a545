"""Write the table of optimizers in README.md from the registry of the tests: `make table`.

The bytes of state, and the inputs without which `update` fails, are measured.
"""

import functools
import inspect
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import problems  # noqa: E402
import registry  # noqa: E402

import gdjax  # noqa: E402

BEGIN, END = "<!-- table: made by `make table` -->", "<!-- end of table -->"
HEADER = """\
| optimizer | paper | state bytes per weight | `update` also needs | good for | in a sentence |
| --- | --- | --- | --- | --- | --- |"""


def table():
    """Return the table, one row for each public factory, by name."""
    cases = {}
    for case in registry.CASES:
        cases.setdefault(factory_of(case), []).append(case)
    cases.pop(None, None)
    rows = [row(factory, cases[factory]) for factory in sorted(cases, key=lambda f: f.__name__)]
    return "\n".join([HEADER, *rows])


def factory_of(case):
    """Return the optimizer that a case runs; None for compositions, transforms and solvers."""
    make = case.make
    while isinstance(make, functools.partial):
        make = make.func
    make = getattr(make, "factory", make)
    listed = getattr(gdjax, make.__name__, None) is make and ".optimizers." in make.__module__
    listed = listed and not make.__name__.startswith("scale_by_")
    return make if listed else None


def row(factory, cases):
    """Return one line of the table."""
    arguments = inspect.signature(factory).parameters.values()
    named = [p for p in arguments if p.kind is not p.VAR_KEYWORD]
    required = [p.name for p in named if p.default is p.empty]
    functions = {k: v for k, v in getattr(cases[0].make, "keywords", {}).items() if callable(v)}
    plain = factory(**{name: cases[0].numbers[name] for name in required}, **functions)
    variants = [plain, *(case.make(**case.numbers) for case in cases)]
    state = sorted({state_bytes(opt) for opt in variants})
    cells = [
        f"`{factory.__name__}`",
        f"[paper]({paper(factory)})",
        " to ".join(f"{x:g}" for x in dict.fromkeys([state[0], state[-1]])),
        ", ".join(f"`{key}`" for key in needed(plain, cases[0].extras)),
        good_for(factory),
        inspect.getdoc(factory).splitlines()[0],
    ]
    return f"| {' | '.join(cells)} |"


def paper(factory):
    """Return the first URL in the module's docstring, or one whose line names the factory."""
    doc = inspect.getdoc(inspect.getmodule(factory))
    lines = [line for line in doc.splitlines() if "https://" in line]
    if not lines:
        raise ValueError(f"the docstring of {factory.__module__} has no link to a paper.")
    named = [x for x in lines if re.search(rf"\b{factory.__name__}\b", x, re.IGNORECASE)]
    return re.search(r"https://\S+", (named or lines)[0])[0].rstrip(").,;:")


def good_for(factory):
    """Return the text after "Good for:" in the factory's docstring."""
    found = re.search(r"^Good for: (.*?)\.$", inspect.getdoc(factory), re.MULTILINE)
    if not found:
        raise ValueError(f"{factory.__name__}'s docstring has no line 'Good for: ....'.")
    return found[1]


def state_bytes(opt):
    """Return the bytes of state per element, for a float32 array of shape (256, 256)."""
    leaf = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(opt.init, leaf))
    return round(sum(x.size * x.dtype.itemsize for x in leaves) / leaf.size, 1)


def needed(opt, extras):
    """Return the inputs that `update` requires in addition to gradients and state."""
    params = problems.parameters()
    grads = problems.gradients(params, 1)
    inputs = extras(params, grads, 1)
    params, grads = jax.tree.map(jnp.float32, (params, grads))
    inputs = {"params": params, **inputs}

    def fails_without(key):
        others = {k: v for k, v in inputs.items() if k != key}
        try:
            jax.eval_shape(lambda: opt.update(grads, opt.init(params), **others))
        except (TypeError, ValueError):
            return True
        return False

    if fails_without(None):
        raise ValueError(f"{opt} fails with all its inputs.")
    return [key for key in inputs if fails_without(key)]


def refreshed(text):
    """Return the text of README.md with a new table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(refreshed(readme.read_text()))
