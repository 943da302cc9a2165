"""The kernel, interpreted on CPU, and JAX's function, against attention in float64.

Pallas' interpreter fills what is read beyond an array's end with NaN, so that finite values show
that all of it is masked. It is slow, so shapes are small: a tile has 128 queries in place of 512.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl

from mswitch.models.config import TrainConfig
from mswitch.models.nn.attention import relative_position_buckets
from mswitch.models.nn.sharded_attention import (
    KernelMask,
    attend_by_kernel,
    attend_by_library,
    choose_kernel,
    name_attention,
)
from mswitch.models.nn.t5_attention import LANES, MASKED, KernelOptions, diagonal_distances, padded
from mswitch.pipelines.errors import UserError

BUCKETS = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: its sizes, and what is masked."""

    queries: int
    keys: int
    heads: int = 2
    width: int = 64
    causal: bool = False
    packed: bool = False
    biased: bool = True
    rows: int = 2
    seed: int = 0
    #: JAX's function by XLA: what cuDNN gets, without cuDNN.
    library: bool = False

    @property
    def options(self) -> KernelOptions:
        return KernelOptions(tile_values=LANES * padded(self.keys), interpret=True)

    def buckets(self, distance: np.ndarray) -> np.ndarray:
        how = {"bidirectional": not self.causal, "buckets": BUCKETS, "max_distance": 128}
        return relative_position_buckets(distance, **how)

    def values(self) -> dict[str, np.ndarray]:
        """Draw what is differentiated, and `do`, the gradient of the result."""
        rng = np.random.default_rng(self.seed)
        lengths = {"q": self.queries, "k": self.keys, "v": self.keys, "do": self.queries}
        shape = (self.heads, self.width)
        made = {name: rng.normal(size=(self.rows, n, *shape)) for name, n in lengths.items()}
        made["q"] *= self.width**-0.5
        return made | {"table": rng.normal(size=(self.heads, BUCKETS)) * self.biased}

    def segments(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw the examples of keys and, in packed rows, of queries."""
        rng = np.random.default_rng(self.seed + 1)
        if self.packed:
            keys, queries = (
                -np.sort(-rng.integers(0, 4, (self.rows, length)))
                for length in (self.keys, self.queries)
            )
            return keys, keys if self.queries == self.keys else queries
        real = np.arange(self.keys) < rng.integers(self.library, self.keys + 1, (self.rows, 1))
        if not self.library:
            real[0] = False  # a row without any key
        return (real | self.causal).astype(np.int32), None

    def allowed(self) -> np.ndarray:
        keys, queries = self.segments()
        seen = keys[:, None] != 0 if queries is None else queries[:, :, None] == keys[:, None]
        later = np.subtract.outer(np.arange(self.queries), np.arange(self.keys)) < 0
        return (seen & ~(later & self.causal))[:, None]


def exact(case: Case, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Result and gradients in float64."""
    q, k, v, do, table = (values[name] for name in ("q", "k", "v", "do", "table"))
    allowed = case.allowed()
    distance = np.subtract.outer(np.arange(case.queries), np.arange(case.keys))
    buckets = case.buckets(distance)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) + table[:, buckets]
    logits = np.where(allowed, logits, MASKED)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = np.einsum("bqhd,bkhd->bhqk", do, v)
    dlogits = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) * allowed
    dtable = np.zeros_like(table)
    for bucket in range(BUCKETS):
        dtable[:, bucket] = dlogits.sum(0)[:, buckets == bucket].sum(1)
    return {
        "out": np.einsum("bhqk,bkhd->bqhd", weights, v),
        "dq": np.einsum("bhqk,bkhd->bqhd", dlogits, k),
        "dk": np.einsum("bhqk,bqhd->bkhd", dlogits, q),
        "dv": np.einsum("bhqk,bqhd->bkhd", weights, do),
        "dtable": dtable,
    }


def by_kernel(case: Case, values: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    keys, queries = (None if x is None else jnp.asarray(x) for x in case.segments())
    assert keys is not None

    @jax.jit
    def run(q, k, v, table, do):
        def attend(q, k, v, table):
            at = case.buckets(diagonal_distances(case.queries, case.keys))
            diagonals = table[:, at] if case.biased else None
            mask = KernelMask(keys, queries, case.causal, case.options, None)
            q, k, v = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
            if case.library:
                how = {"heads": case.heads, "causal": case.causal, "implementation": "xla"}
                made = attend_by_library(q, k, v, diagonals, keys, queries, **how)
            else:
                made = attend_by_kernel(q, k, v, mask, diagonals, heads=case.heads)
            return made.reshape(*made.shape[:2], case.heads, case.width)

        out, pull = jax.vjp(attend, q, k, v, table)
        return {"out": out, **dict(zip(("dq", "dk", "dv", "dtable"), pull(do), strict=True))}

    arrays = {name: jnp.asarray(x, dtype) for name, x in values.items()}
    return run(**arrays | {"table": jnp.asarray(values["table"], jnp.float32)})


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    off = np.linalg.norm(np.asarray(made, np.float64) - wanted)
    return float(off / max(np.linalg.norm(wanted), 1e-30))


def check(case: Case, dtype: str = "float32", most: float = 1e-6) -> None:
    values = case.values()
    # What bfloat16 rounds of the arrays themselves is no error of the kernel.
    rounded = {name: np.asarray(jnp.asarray(x, dtype), np.float64) for name, x in values.items()}
    made, wanted = (
        by_kernel(case, values, dtype),
        exact(case, {**values, **rounded, "table": values["table"]}),
    )
    for name, array in wanted.items():
        if name == "dtable" and not case.biased:
            continue
        assert error(made[name], array) < most, (name, case)


def test_a_packed_causal_row_of_odd_length():
    check(Case(queries=37, keys=37, causal=True, packed=True))


@pytest.mark.parametrize(
    "case",
    [
        Case(queries=37, keys=37),
        Case(queries=37, keys=37, causal=True, packed=True),
        Case(queries=29, keys=37, biased=False),
    ],
    ids=str,
)
def test_the_library_gets_the_same_bias_and_mask(case):
    check(dataclasses.replace(case, library=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(queries=256, keys=256, heads=4, rows=3),
        Case(queries=200, keys=200, packed=True),
        Case(queries=229, keys=229, causal=True, packed=True),
        Case(queries=114, keys=300, biased=False),
        Case(queries=300, keys=114, biased=False, packed=True),
        Case(queries=130, keys=130, heads=3),
        Case(queries=129, keys=129, width=128, causal=True),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-6), ("bfloat16", 5e-3)])
def test_values_and_gradients_are_those_of_float64(case, dtype, most):
    check(case, dtype, most)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.builds(
        Case,
        queries=st.integers(1, 280),
        keys=st.integers(1, 280),
        heads=st.integers(1, 4),
        width=st.sampled_from([8, 64, 128]),
        causal=st.booleans(),
        packed=st.booleans(),
        biased=st.booleans(),
        rows=st.integers(1, 3),
        seed=st.integers(0, 9),
    )
)
def test_any_shape_and_mask(case):
    check(case)


def test_what_is_read_beyond_the_end_of_an_array_is_not_a_number():
    """Without that the tests of odd lengths would show nothing."""

    def copy(x, out):
        out[...] = x[...]

    made = pl.pallas_call(
        copy,
        grid=(1,),
        in_specs=[pl.BlockSpec((LANES, LANES), lambda i: (0, 0))],
        out_shape=jax.ShapeDtypeStruct((LANES, LANES), jnp.float32),
        interpret=True,
    )(jnp.ones((LANES - 1, LANES)))
    assert np.isnan(made[-1]).all()
    assert not np.isnan(made[:-1]).any()


@pytest.mark.parametrize(
    ("choice", "kind", "width", "lengths", "used"),
    [
        ("auto", "TPU v5", 64, (1024, 229), True),
        ("auto", "TPU v5 lite", 128, (2048, 229), True),
        ("auto", "TPU v6 lite", 64, (1024, 2049), False),
        ("auto", "TPU v4", 64, (1024, 229), True),
        ("auto", "TPU v4", 64, (2048, 229), False),
        ("auto", "TPU v3", 64, (1024, 229), False),
        ("auto", "TPU v5", 32, (1024, 229), False),
        ("auto", "cpu", 64, (8, 8), False),
        ("auto", "NVIDIA H100", 64, (8, 8), False),
        ("xla", "TPU v5", 64, (1024, 229), False),
        ("kernel", "TPU v5", 32, (1024, 229), True),
        ("kernel", "cpu", 16, (8, 8), True),
    ],
)
def test_the_kernel_is_chosen_where_it_compiles(choice, kind, width, lengths, used):
    options = choose_kernel(choice, width, lengths, kind)
    assert (options is not None) == used
    assert name_attention(options) == ("kernel" if used else "xla")
    assert options is None or options.interpret == (kind == "cpu")


def test_the_kernel_is_refused_where_it_does_not_run():
    with pytest.raises(UserError, match=r"is for TPU v4, .* not for TPU v3"):
        choose_kernel("kernel", 64, (8, 8), "TPU v3")
    with pytest.raises(UserError, match="up to 1,024 positions on TPU v4, and there are 1,025"):
        choose_kernel("kernel", 64, (1025, 8), "TPU v4")


def test_cudnn_is_for_gpus_and_bfloat16():
    kind = "NVIDIA H100 80GB HBM3"
    assert name_attention(choose_kernel("cudnn", 64, (8, 8), kind)) == "cudnn"
    for width, device in ((64, "cpu"), (64, "TPU v5"), (12, kind), (256, kind)):
        with pytest.raises(UserError, match=f"not for {device} and heads of {width}"):
            choose_kernel("cudnn", width, (8, 8), device)
    with pytest.raises(UserError, match="--attention cudnn needs --dtype bfloat16"):
        TrainConfig(attention="cudnn", dtype="float32")
