"""Published numbers of optimizers, as arguments of their factories."""

from __future__ import annotations

from typing import Any

from gdjax.core.checks import check_choice, strict

_AUX_ADAM = dict(adam_b1=0.9, adam_b2=0.95)
_ALGOPERF = dict(
    learning_rate=0.0017486387539278373,
    b1=1 - 0.06733926164,
    b2=1 - 0.00448403102,
    eps=1e-8,
    weight_decay=0.08121616522670176,
)
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "muon": {
        "jordan": dict(learning_rate=0.02, adam_learning_rate=3e-4, **_AUX_ADAM),
        "moonlight": dict(
            learning_rate=1e-3,
            consistent_rms=0.2,
            weight_decay=0.1,
            adam_weight_decay=0.1,
            **_AUX_ADAM,
        ),
        "torch": dict(learning_rate=1e-3, eps=1e-7, weight_decay=0.1),
        "dion": dict(
            learning_rate=0.01,
            ns_coeffs="polar_express5",
            nesterov=False,
            scale="spectral",
            weight_decay=0.01,
            adam_weight_decay=0.01,
            **_AUX_ADAM,
        ),
    },
    "nadamw": {"algoperf": _ALGOPERF | dict(formula="algoperf")},
    "shampoo": {
        "algoperf": _ALGOPERF
        | dict(
            precondition_frequency=100,
            block_size=1024,
            graft="adam",
            graft_b2=_ALGOPERF["b2"],
            graft_eps=1e-8,
            b3=_ALGOPERF["b1"] ** 2,
        ),
        "modded_nanogpt": dict(
            learning_rate=0.01,
            b2=0.9,
            eps=0.0,
            rcond=1e-4,
            weight_decay=0.1,
            precondition_frequency=1,
            block_size=8192,
            graft="adam",
            graft_b2=0.9,
            graft_eps=1e-15,
            start_preconditioning_step=1,
            one_sided=True,
        ),
    },
}


@strict()
def preset(optimizer: str, name: str) -> dict[str, Any]:
    """Return published arguments of an optimizer, for its factory: `muon(**preset("muon", ...))`.

    They are starting points: numbers that won elsewhere, at other batch sizes and lengths of runs.

    ==========  ==============  ==================================================================
    optimizer   name            source
    ==========  ==============  ==================================================================
    `muon`      jordan          defaults of https://github.com/KellerJordan/Muon
    `muon`      moonlight       the example of https://github.com/MoonshotAI/Moonlight
    `muon`      torch           defaults of `torch.optim.Muon`, which takes matrices only
    `muon`      dion            defaults of `Muon` in https://github.com/microsoft/dion
    `nadamw`    algoperf        the self-tuning baseline of AlgoPerf v0.5, with 2 % warm-up and a
                                cosine
    `shampoo`   algoperf        point 1 of the winner of AlgoPerf v0.5, external tuning, likewise
    `shampoo`   modded_nanogpt  result 35 of its optimization track: one-sided, with pseudo-inverse
                                roots; here the side is the shorter one
    ==========  ==============  ==================================================================

    Adam's `eps` is Muon's here, where Jordan's code has 1e-10 for it. Schedules are not included.

    Args:
      optimizer: the name of the factory.
      name: that of the preset.

    Returns:
      A new dict, which you may change.

    Raises:
      ValueError: if there is no such preset.

    Example:
      >>> import gdjax
      >>> preset("muon", "torch")
      {'learning_rate': 0.001, 'eps': 1e-07, 'weight_decay': 0.1}
      >>> opt = gdjax.muon(**preset("muon", "moonlight") | {"learning_rate": 3e-4})
    """
    check_choice("preset(optimizer=...)", optimizer, _PRESETS)
    check_choice("preset(name=...)", name, _PRESETS[optimizer])
    return dict(_PRESETS[optimizer][name])
