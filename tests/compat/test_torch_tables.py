"""The tables of docs/guides/migrating-from-torch.md, with numbers from PyTorch 2.13 in float64."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

GUIDE = pathlib.Path(__file__).parents[2] / "docs/guides/migrating-from-torch.md"
ROW = r"^\| `(\w+\((?:ps|o), [^`]+)` \| `([^`]+)` \|$"
ROWS = dict(re.findall(ROW, GUIDE.read_text(), re.MULTILINE))
# The parameters after 20 steps from (1, -2, 3) with the gradient p (1, 10, 0.1) + sin(p).
PARAMS = {
    "SGD(ps, lr=0.01)": [0.683431510798, -0.200936018129, 2.9039491001],
    "SGD(ps, lr=0.01, momentum=0.9)": [-0.250965880401, -0.631854923843, 2.30907431795],
    "SGD(ps, lr=0.01, momentum=0.9, nesterov=True)":
        [-0.201623127949, -0.190965361687, 2.22306812338],
    "SGD(ps, lr=0.01, momentum=0.9, weight_decay=0.1)":
        [-0.273122274298, -0.622025181762, 1.88778794601],
    "Adam(ps, lr=0.01)": [0.802281589387, -1.80115445775, 2.79621581153],
    "Adam(ps, lr=0.01, weight_decay=0.1)": [0.802301109634, -1.80115541487, 2.79779536152],
    "Adam(ps, lr=0.01, amsgrad=True)": [0.802281589387, -1.80115445775, 2.79621581153],
    "AdamW(ps, lr=0.01)": [0.800496774632, -1.79737134851, 2.79032899034],
    "NAdam(ps, lr=0.01)": [0.832958285772, -1.83079368884, 2.8193094023],
    "RAdam(ps, lr=0.01)": [0.900640397831, -1.05392956612, 2.96876800742],
    "Adamax(ps, lr=0.01)": [0.808245196901, -1.80359425181, 2.81085177028],
    "Adagrad(ps, lr=0.01)": [0.925014542303, -1.92456529397, 2.92190860264],
    "Adadelta(ps, lr=1.0)": [0.931581544597, -1.93091622939, 2.92661915682],
    "RMSprop(ps, lr=0.01)": [0.358049575576, -1.2863863536, 2.09778970667],
    "RMSprop(ps, lr=0.01, momentum=0.9, centered=True)":
        [0.0617623898212, 0.730128097567, -1.08507524176],
    "Rprop(ps, lr=0.01)": [0.0331365760773, -0.133120003776, 1.13312000378],
}  # fmt: skip
# The learning rates of calls 0, 1, 15, 29, 30, 60 and 99.
RATES = {
    "StepLR(o, 30, gamma=0.1)": [0.1, 0.1, 0.1, 0.1, 0.01, 0.001, 0.0001],
    "MultiStepLR(o, [30, 80], gamma=0.1)": [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001],
    "ExponentialLR(o, gamma=0.98)":
        [0.1, 0.098, 0.07385691026, 0.05566166524, 0.05454843194, 0.02975531427, 0.01353260774],
    "CosineAnnealingLR(o, T_max=100, eta_min=0.001)":
        [0.1, 0.09997557474, 0.09460482295, 0.08083889916, 0.07959536999, 0.03520365878]
        + [0.001024425262],
    "CosineAnnealingWarmRestarts(o, T_0=50)":
        [0.1, 0.09990133642, 0.07938926261, 0.03756550564, 0.03454915028, 0.09045084972]
        + [9.866357859e-05],
    "LinearLR(o, start_factor=0.1, total_iters=20)": [0.01, 0.0145, 0.0775, 0.1, 0.1, 0.1, 0.1],
    "ConstantLR(o, factor=0.5, total_iters=10)": [0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1],
    "PolynomialLR(o, total_iters=100, power=2.0)":
        [0.1, 0.09801, 0.07225, 0.05041, 0.049, 0.016, 1e-05],
    "CyclicLR(o, 0.01, 0.1, step_size_up=20, cycle_momentum=False)":
        [0.01, 0.0145, 0.0775, 0.0595, 0.055, 0.1, 0.0955],
    "OneCycleLR(o, max_lr=0.1, total_steps=100)":
        [0.004, 0.004281378057, 0.05459866761, 0.1, 0.09994965353, 0.05892800903, 4e-07],
}  # fmt: skip


class Names(dict):
    """The names of gdjax, which loads them when they are asked for."""

    def __missing__(self, name):
        return getattr(gdjax, name)


def test_the_tables_have_these_rows():
    assert set(PARAMS) | set(RATES) == set(ROWS)


@pytest.mark.parametrize("torch", PARAMS)
def test_an_optimizer_gives_the_parameters_of_torch(torch):
    with enable_x64():
        params = jnp.array([1.0, -2.0, 3.0])
        optimizer = eval(ROWS[torch], {}, Names())  # noqa: S307
        state = optimizer.init(params)
        for _ in range(20):
            grads = params * jnp.array([1.0, 10.0, 0.1]) + jnp.sin(params)
            updates, state = optimizer.update(grads, state, params)
            params = gdjax.apply_updates(params, updates)
        # RAdam adds eps elsewhere
        np.testing.assert_allclose(params, PARAMS[torch], rtol=1e-6 if "RAdam" in torch else 1e-9)


@pytest.mark.parametrize("torch", RATES)
def test_a_schedule_gives_the_rates_of_torch(torch):
    schedule = eval(ROWS[torch], {}, Names())  # noqa: S307
    rates = jax.jit(jax.vmap(schedule))(jnp.array([0, 1, 15, 29, 30, 60, 99]))
    np.testing.assert_allclose(rates, RATES[torch], rtol=1e-4, atol=1e-8)


def test_a_plateau_is_reduced_when_torch_reduces_it():
    optimizer = gdjax.reduce_on_plateau(0.1, patience=3)
    state, scales = optimizer.init(jnp.ones(1)), []
    for loss in [3.0] + 8 * [2.0] + 6 * [1.0]:
        _, state = optimizer.update(jnp.ones(1), state, value=loss)
        scales.append(state.scale)
    # ReduceLROnPlateau(o, factor=0.1, patience=2)
    expected = [1.0] * 4 + [0.1] * 3 + [0.01] * 5 + [0.001] * 3
    np.testing.assert_allclose(scales, expected, rtol=1e-5)
