"""What the reference says of each optimizer: measured, or read from its docstrings."""

import functools
import inspect
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from gdjax.core.checks import STANDARD
from gdjax.namespace import HOMES

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

# Arguments of factories that no row of the registry of the tests gives.
ARGUMENTS = {"dpsgd": dict(l2_norm_clip=1.0, noise_multiplier=1.0, seed=0)}


def _makes_an_optimizer(name, package):
    function = getattr(gdjax, name)
    return (
        HOMES[name].startswith(f"gdjax.{package}.")
        and inspect.isfunction(function)
        and inspect.signature(function).return_annotation == "Optimizer"
        and not name.startswith("scale_by_")
    )


# The two lists of public functions that have a page of their own. Left out are a transform, a
# method of `fixed_point`, and a wrapper.
FACTORIES = sorted(n for n in HOMES if _makes_an_optimizer(n, "optimizers") and n != "trace")
SOLVERS = sorted(
    n for n in HOMES if _makes_an_optimizer(n, "solvers") and n not in ("anderson", "projected")
)


@functools.cache
def _cases():
    """Return factory -> its rows in the registry of the tests."""
    import registry

    found = {}
    for case in registry.CASES:
        make = case.make
        while isinstance(make, functools.partial):
            make = make.func
        make = getattr(make, "factory", make)
        found.setdefault(make, []).append(case)
    return found


def summary(function):
    """Return the first line of the docstring."""
    return inspect.getdoc(function).splitlines()[0]


def good_for(factory):
    """Return the text after "Good for:" in the docstring of a factory."""
    found = re.search(r"^Good for: (.*?)\.$", inspect.getdoc(factory), re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"{factory.__name__}'s docstring has no line 'Good for: ....'.")
    return found[1].replace("\n", " ")


# What the docstrings call the evidence for a method -> what the word means.
LEVELS = {
    "independent": "Most comparisons by others, with both sides tuned, found an advantage: a lower "
    "loss, fewer steps, or equal results with less memory or less tuning.",
    "mixed": "Comparisons by others disagree, or found about equal results.",
    "negative": "Most comparisons by others did not find the advantage that its authors report.",
    "authors only": "We know of no comparison by others with both sides tuned.",
    "theory": "Its guarantees are proven: convergence, privacy, or equality to another method.",
    "none": "We know of no comparison.",
}


def evidence(function):
    """Return level and text of the paragraph "Evidence: level. ...." in a docstring, or None."""
    found = re.search(r"^Evidence: (.*?)(?:\n\n|\Z)", inspect.getdoc(function), re.M | re.S)
    if not found:
        return None
    level, _, text = " ".join(found[1].split()).partition(". ")
    name = function.__name__
    if level not in LEVELS:
        raise ValueError(f"{name}'s evidence must be one of {list(LEVELS)}, got {level!r}.")
    if level != "none" and not re.search(r"arXiv \d{4}\.\d{4,5}|https://", text):
        raise ValueError(f"{name}'s evidence, {level!r}, has no source: an arXiv number or a link.")
    return level, text


def linked(text):
    """Return reST in which the numbers of papers on arXiv are links."""
    return re.sub(r"arXiv\s+(\d{4}\.\d{4,5})", r"`arXiv \1 <https://arxiv.org/abs/\1>`__", text)


def paper(factory):
    """Return the first URL in the module's docstring, or one whose line names the factory."""
    doc = inspect.getdoc(inspect.getmodule(factory))
    lines = [line for line in doc.splitlines() if "https://" in line]
    if not lines:
        raise ValueError(f"the docstring of {factory.__module__} has no link to a paper.")
    named = [x for x in lines if re.search(rf"\b{factory.__name__}\b", x, re.IGNORECASE)]
    return re.search(r"https://\S+", (named or lines)[0])[0].rstrip(").,;:")


def notes(factory):
    """Return label -> text of the module's docstring, after its first line."""
    text = inspect.getdoc(inspect.getmodule(factory)).partition("\n")[2].strip()
    marks = r"(?:^|(?<=\s))((?:Paper|Post) -> here[^:]*|Deviations?[^:\n]*):\s"
    start, *rest = re.split(marks, text)
    labels = {"Papers": start}
    for label, body in zip(rest[::2], rest[1::2], strict=True):
        labels[label.replace("->", "→").replace("Deviation,", "Deviations,")] = body
    return {label: body.strip() for label, body in labels.items() if body.strip()}


def numbers(factory):
    """Return name -> (default, range) of the arguments that have a range."""
    parameters = inspect.signature(factory).parameters
    ranges = STANDARD | vars(factory).get("__ranges__", {})
    return {
        name: (parameter.default, ranges[name].text)
        for name, parameter in parameters.items()
        if name in ranges
    }


def state_bytes(factory):
    """Return the least and the most bytes of state for each element of a (256, 256) array.

    The array is float32. The options are the defaults, and those with which the tests run it.
    """
    leaf = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    found = sorted(round(_bytes(opt, leaf) / leaf.size, 1) for opt in _variants(factory))
    return list(dict.fromkeys([found[0], found[-1]]))


def growth(optimizer):
    """Return [a, b], where the state of a solver for n float32 parameters takes a n^2 + b n bytes.

    What does not grow is left out.
    """
    sizes = 1000, 2000, 4000
    found = [_bytes(optimizer, jax.ShapeDtypeStruct((n,), jnp.float32)) for n in sizes]
    return [round(x) for x in np.polyfit(sizes, found, 2)[:2].tolist()]


def _bytes(optimizer, leaf):
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, leaf))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def _variants(factory):
    cases = _cases().get(factory, [])
    return [_plain(factory), *(case.make(**case.numbers) for case in cases)]


def _plain(factory):
    """Return the optimizer with default options."""
    given = dict(ARGUMENTS.get(factory.__name__, {}))
    for case in _cases().get(factory, [])[:1]:
        given |= case.numbers
        functions = getattr(case.make, "keywords", {})
        given |= {k: v for k, v in functions.items() if callable(v)}
    parameters = inspect.signature(factory).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    wanted = {k: given.get(k, 0.1) for k in required}
    return factory(**wanted, **{k: v for k, v in given.items() if callable(v) and k not in wanted})


def needed(factory):
    """Return the inputs that `update` requires in addition to gradients and state."""
    import problems

    params = problems.parameters()
    grads = problems.gradients(params, 1)
    cases = _cases().get(factory)
    inputs = cases[0].extras(params, grads, 1) if cases else {}
    params, grads = jax.tree.map(jnp.float32, (params, grads))
    if factory is gdjax.dpsgd:  # it takes one gradient for each example
        grads = jax.tree.map(lambda g: g[None], grads)
    inputs = {"params": params, **inputs}
    opt = _plain(factory)

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
