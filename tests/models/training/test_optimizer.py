import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mswitch.models.training.optimizer import (
    Adafactor,
    AdamW,
    FactoredMoment,
    FullMoment,
    find_moment_axes,
)


def reference_step(p, g, moment, step, rate, *, factored):
    """One Adafactor step on one parameter in float64 (Shazeer and Stern, algorithm 4)."""
    decay = 1.0 - (step + 1.0) ** -0.8
    square = g.astype(np.float64) ** 2 + 1e-30
    if factored:
        row = decay * moment[0] + (1 - decay) * square.mean(1)
        column = decay * moment[1] + (1 - decay) * square.mean(0)
        estimate = np.outer(row, column) / row.mean()
        moment = (row, column)
    else:
        estimate = decay * moment[0] + (1 - decay) * square
        moment = (estimate,)
    update = g / np.sqrt(estimate)
    update /= max(1.0, np.sqrt((update**2).mean()))
    scale = max(np.sqrt((p.astype(np.float64) ** 2).mean()), 1e-3)
    return p - rate * scale * update, moment


@pytest.mark.parametrize(
    ("shape", "axes", "factored"),
    [
        ((130, 140), ("embed", "mlp"), True),
        ((140, 130), ("vocab", "embed"), True),
        ((130, 100), ("embed", "mlp"), False),  # a side below 128
        ((300,), ("embed",), False),
        ((4, 32), ("heads", "buckets"), False),
    ],
)
def test_update_equals_numpy_over_several_steps(shape, axes, factored):
    optimizer = Adafactor(base_learning_rate=2.0, warmup_steps=3)
    rng = np.random.default_rng(0)
    made = {"p": jnp.array(rng.normal(size=shape) * 0.1, jnp.float32)}
    moments = optimizer.init(made, {"p": axes})
    assert isinstance(moments["p"], FactoredMoment if factored else FullMoment)
    wanted = np.asarray(made["p"], np.float64)
    state = tuple(np.zeros(part.shape) for part in moments["p"])
    update = jax.jit(lambda p, g, m, s: optimizer.update(p, g, m, s, {"p": axes}))
    for step in range(6):
        gradient = (rng.normal(size=shape) * 10.0 ** rng.integers(-4, 3)).astype(np.float32)
        made, moments, norm = update(made, {"p": jnp.array(gradient)}, moments, jnp.int32(step))
        assert float(norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        rate = 2.0 / np.sqrt(max(step, 3))
        wanted, state = reference_step(wanted, gradient, state, step, rate, factored=factored)
        np.testing.assert_allclose(made["p"], wanted, rtol=2e-5, atol=2e-6)
        for one, other in zip(moments["p"], state, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5)


@pytest.mark.parametrize("matrix", [(130, 140), (8, 140)])
def test_each_expert_of_each_layer_is_updated_as_if_alone(matrix):
    optimizer = Adafactor()
    axes = {"p": ("layers", "expert", "embed", "mlp")}
    rng = np.random.default_rng(1)
    # Experts of very different scales: pooled over them, the small would be lost in the large.
    scales = 10.0 ** np.arange(-3, 3).reshape(2, 3, 1, 1)
    stacked = {"p": jnp.array(rng.normal(size=(2, 3, *matrix)) * scales, jnp.float32)}
    alone = {(i, j): {"p": stacked["p"][i, j]} for i in range(2) for j in range(3)}
    moments = optimizer.init(stacked, axes)
    own_axes = {"p": ("embed", "mlp")}
    own = {key: optimizer.init(value, own_axes) for key, value in alone.items()}
    for step in range(3):
        gradient = jnp.array(rng.normal(size=(2, 3, *matrix)) / scales, jnp.float32)
        stacked, moments, _ = optimizer.update(
            stacked, {"p": gradient}, moments, jnp.int32(step), axes
        )
        for key, value in list(alone.items()):
            alone[key], own[key], _ = optimizer.update(
                value, {"p": gradient[key]}, own[key], jnp.int32(step), own_axes
            )
            # A value near zero is the difference of larger ones: allow for their rounding.
            size = float(jnp.abs(alone[key]["p"]).max())
            np.testing.assert_allclose(
                stacked["p"][key], alone[key]["p"], rtol=1e-6, atol=1e-7 * size
            )


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        (Adafactor(), {0: 0.01, 9_999: 0.01, 10_000: 0.01, 40_000: 0.005}),
        (Adafactor(base_learning_rate=2.0, warmup_steps=100), {400: 0.1}),
        (AdamW(base_learning_rate=0.1), {0: 1e-7, 4_999: 5e-4, 9_999: 1e-3, 39_999: 5e-4}),
        *(
            (kind(0.25, 100, schedule="constant"), dict.fromkeys((0, 99, 100, 10**6), 0.25))
            for kind in (Adafactor, AdamW)
        ),
        *(
            (
                kind(0.25, 100, schedule="constant", decay=50, end=200),
                {0: 0.25, 149: 0.25, 150: 0.25, 175: 0.125, 199: 0.005, 200: 0.0, 300: 0.0},
            )
            for kind in (Adafactor, AdamW)
        ),
        (Adafactor(2.0, 100, decay=400, end=800), {99: 0.2, 400: 0.1, 625: 0.035}),
        # Decay that begins within the warm-up, with the first step.
        (AdamW(0.1, decay=20_000, end=20_000), {0: 1e-7, 4_999: 5e-4 * 0.75005}),
    ],
)
def test_rates_follow_their_schedules(optimizer, rates):
    """Constant or rising, to the peak; with the inverse square root; to zero in a straight line."""
    found = {step: float(optimizer.learning_rate(jnp.int32(step))) for step in rates}
    assert found == pytest.approx(rates, rel=1e-5)


def test_moment_axes_follow_the_parameter():
    factored = FactoredMoment(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    assert find_moment_axes(factored, ("expert", "embed", "mlp")) == (
        ("expert", "embed"),
        ("expert", "mlp"),
    )
    assert find_moment_axes(FullMoment(jnp.zeros(3)), ("embed",)) == (("embed",),)
