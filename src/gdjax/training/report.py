"""Progress bars, by a library that does them well (an optional extra)."""

from __future__ import annotations

import importlib
from typing import Any


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
