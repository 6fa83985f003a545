"""Progress bars, tables and pictures, by the libraries that do them well (optional extras)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise ImportError(f'{what} needs {name}: pip install "gdjax[{extra}]".') from error


class Bar:
    """A progress bar of steps, or nothing at all."""

    def __init__(self, total: int | None, show: bool):
        self.bar = None
        if show:
            self.bar = require("tqdm.auto", "progress", "progress=True").tqdm(
                total=total, unit="step", dynamic_ncols=True
            )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, **values: Any) -> None:
        """Move to `done` steps and show some numbers."""
        if self.bar is not None:
            texts = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
            self.bar.set_postfix(texts, refresh=False)
            self.bar.update(done - self.bar.n)


def plot_curves(curves: dict[str, Any], ax: Any = None, label: str = "loss") -> Any:
    """Draw named curves over the step on a log scale where they are positive; return the axes."""
    plt = require("matplotlib.pyplot", "plots", "plot()")
    ax = plt.figure(layout="constrained").add_subplot() if ax is None else ax
    for name, values in curves.items():
        ax.plot(np.arange(1, len(values) + 1), values, label=name, linewidth=1.2)
    if all((np.asarray(v)[np.isfinite(v)] > 0).all() for v in curves.values()):
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=label)
    if len(curves) > 1:
        ax.legend(fontsize="small")
    return ax
