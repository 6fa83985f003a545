"""What both type checkers must refuse: each line is marked, and a mark without error is an error.

The functions are never called.
"""

# pyright: standard, reportUnnecessaryTypeIgnoreComment=error

from program import examples, loss_fn, start

import gdjax


def numbers() -> None:
    gdjax.adam("0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.adam(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.sgd(0.1, "0.9")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.clip_by_global_norm("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def keywords() -> None:
    gdjax.adam(learning_rat=0.1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    gdjax.adam(1e-3, beta1=0.9)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    gdjax.fit(  # type: ignore[call-arg]
        loss_fn, start(), gdjax.adam(1e-3), examples(), batchsize=4  # pyright: ignore[reportCallIssue]
    )  # fmt: skip


def optimizers() -> None:
    gdjax.chain(gdjax.adam(1e-3), "adam")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.chain(gdjax.adam)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.groups({"a": 3})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    gdjax.fit(loss_fn, start(), "adam", examples())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gdjax.minimize(loss_fn, start(), "lbfgs")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def results() -> None:
    result = gdjax.fit(loss_fn, start(), gdjax.adam(1e-3), examples(), steps=1)
    result.parameters  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    steps: str = result.steps  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    gdjax.adam(1e-3).updates  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    gdjax.no_such_optimizer(steps)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
