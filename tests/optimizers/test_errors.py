"""Errors of `update` name the factory that the user called, whatever it is built from."""

import inspect
import re

import jax.numpy as jnp
import pytest

import gdjax
from gdjax.namespace import HOMES

REQUIRED = dict(
    learning_rate=0.1, decay=0.9, l2_norm_clip=1.0, noise_multiplier=1.0, seed=0, beta=0.9, steps=9
)
PARAMS = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
PER_EXAMPLE = {"dpsgd"}  # gradients with one more axis


def _makes_an_optimizer(name):
    factory = getattr(gdjax, name)
    return not inspect.isclass(factory) and "Optimizer" in str(
        inspect.signature(factory).return_annotation
    )


FACTORIES = sorted(
    name
    for name, home in HOMES.items()
    if home.startswith("gdjax.optimizers.") and _makes_an_optimizer(name)
)


def _make(name):
    parameters = inspect.signature(getattr(gdjax, name)).parameters.values()
    given = {p.name: REQUIRED[p.name] for p in parameters if p.default is p.empty}
    return getattr(gdjax, name)(**given)


def _unusual(grad, slots, param, count, *, unusual_number):
    return unusual_number * grad, slots


FOREIGN = gdjax.leafwise(_unusual, hyperparams=dict(unusual_number=1.0)).init(PARAMS)


def _loss(params):
    return sum(jnp.sum(x**2) for x in params.values())


def _update(name, grads, state=None, params=PARAMS, **extra):
    opt = _make(name)
    if name in PER_EXAMPLE:
        grads = {k: x[None] for k, x in grads.items()}
    opt.update(grads, opt.init(PARAMS) if state is None else state, params, **extra)


def test_factories_are_found():
    assert {"adam", "scale_by_adam", "dog", "muon", "schedule_free_adamw"} <= set(FACTORIES)
    assert {
        "adamw", "adan", "cocob", "dadapt_adamw", "dog", "dowg", "fromage", "l_dog", "lamb", "lars",
        "momo", "momo_adam", "novograd", "prodigy",
    } <= SAYS_SO  # fmt: skip


@pytest.mark.parametrize("name", FACTORIES)
def test_the_state_of_another_optimizer(name):
    with pytest.raises(ValueError, match=rf"^{name}\b.*\bstate\b") as error:
        _update(name, PARAMS, FOREIGN, value=1.0, obj_fn=_loss)
    assert "init" in str(error.value)


@pytest.mark.parametrize("name", FACTORIES)
def test_slots_restored_without_their_class(name):
    state = _make(name).init(PARAMS)
    if not getattr(getattr(state, "slots", ()), "_fields", ()):
        return  # it has no slots, or is a chain
    bare = state._replace(slots=state.slots._asdict())
    with pytest.raises(ValueError, match=rf"^{name}\b.*\bstate\b"):
        _update(name, PARAMS, bare, value=1.0, obj_fn=_loss)


@pytest.mark.parametrize("name", ["amsgrad", "adabelief"])
def test_the_state_of_an_optimizer_with_the_same_numbers(name):
    with pytest.raises(ValueError, match=rf"^{name}: .* whose slots are \w+; got AdamMoments"):
        _update(name, PARAMS, gdjax.adam(0.1).init(PARAMS))


@pytest.mark.parametrize("name", FACTORIES)
def test_integer_gradients(name):
    integers = {k: x.astype(int) for k, x in PARAMS.items()}
    with pytest.raises(TypeError, match=rf"^{name}\b.*must be float or complex, got dtype int"):
        _update(name, integers, value=1.0, obj_fn=_loss)


# In adahessian and sophia the estimate of the curvature, which may be the user's, asks for them.
SAYS_SO = {
    name
    for name in FACTORIES
    if "needs the parameters" in " ".join((getattr(gdjax, name).__doc__ or "").split())
    and name not in ("adahessian", "sophia")
}
BY_OPTIONS = set(  # by their defaults, such as weight_decay, or as twins
    """adafactor adamuon apollo_mini dion dion2 normuon scale_by_cocob scale_by_dog scale_by_dowg
    scale_by_l_dog scale_by_madgrad scale_by_novograd schedule_free_radam""".split()
)
NEED_PARAMS = sorted(SAYS_SO | BY_OPTIONS)


@pytest.mark.parametrize("name", NEED_PARAMS)
def test_no_parameters(name):
    pattern = rf"^{name}\b.*\bthe parameters: call update"
    with pytest.raises(ValueError, match=re.compile(pattern, re.DOTALL)):
        _update(name, PARAMS, params=None, value=1.0, obj_fn=_loss)


@pytest.mark.parametrize("name", ["polyak_sgd", "scale_by_polyak", "momo", "momo_adam"])
def test_no_loss(name):
    with pytest.raises(TypeError, match=rf"^{name} needs value="):
        _update(name, PARAMS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdjax.scale_by_nadam(formula="x"), "scale_by_nadam(formula=...) must be one of"),
        (lambda: gdjax.nadamw(0.1, formula="x"), "nadamw(formula=...) must be one of"),
        (lambda: gdjax.scale_by_nadam(power=0.4), "scale_by_nadam(power=...) belongs to"),
        (lambda: gdjax.scale_by_yogi(eps=-1.0), "scale_by_yogi(eps=...) must be finite and >= 0"),
        (lambda: gdjax.scale_by_adam(lr=0.1), "scale_by_adam() got an unexpected keyword"),
    ],
)
def test_a_twin_names_itself(make, message):
    with pytest.raises((ValueError, TypeError)) as error:
        make()
    assert str(error.value).startswith(message)


def test_a_factory_that_fails_does_not_name_the_next_one():
    with pytest.raises(ValueError):
        gdjax.dog(init_step=("typo", 1.0))
    opt = gdjax.leafwise(_unusual, hyperparams=dict(unusual_number=1.0), name="mine")
    with pytest.raises(TypeError, match="^mine: the gradients must be float"):
        opt.update({"w": jnp.arange(3)}, opt.init({"w": jnp.ones(3)}))


@pytest.mark.parametrize("lift", [gdjax.leafwise, gdjax.treewise])
def test_a_rule_of_the_user_that_needs_parameters(lift):
    opt = lift(_unusual, None, dict(unusual_number=1.0), needs_params=True)
    with pytest.raises(ValueError, match="^unusual needs the parameters: call update"):
        opt.update(jnp.ones(3), opt.init(jnp.ones(3)))
