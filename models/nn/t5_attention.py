"""Attention with T5's relative position bias as a TPU kernel: no [B, H, Q, K] array in memory.

Queries, keys and values have the projections' layout, [B, length, heads * width], so nothing is
transposed. A grid step computes one row of the batch and the fewest heads that fill 128 lanes. All
keys of a row fit the on-chip memory, so the softmax needs no running statistics. The backward pass
needs only queries, keys and values: it computes the weights again.

The bias depends only on query minus key, so it is passed as one value per difference: a head's
`diagonals`. Logits are [keys, queries], one tile of queries at a time. The bias of a tile is a part
of one array, `window[y, c] = diagonals[c - y + ...]`. From one tile to the next, the part moves by
a tile's size. The first row of the batch fills the array, and the others reuse it. The bias's
gradient is summed over the batch in such an array, and returned as diagonals.

The kernel ran interpreted on CPU (slowly), and was compiled for TPUs ahead of time, but never timed
on a TPU.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

#: Logit of a masked key (T5X's value). A query whose keys are all masked attends to all evenly.
MASKED = -1e10
#: Logit of positions beyond the last key: they get no weight even if all keys are masked.
OUTSIDE = -3e38
LANES, SUBLANES = 128, 8
#: Bytes of on-chip memory that the compiler may use. It uses less on TPUs with less memory.
VMEM_BYTES = 100 * 2**20


@dataclasses.dataclass(frozen=True)
class KernelOptions:
    """Options of the attention kernel, which depend on the kind of device.

    Attributes:
        tile_values: largest number of logits of a head at a time, keys times queries.
        longest: most positions of a row that fit the on-chip memory.
        interpret: whether JAX computes it operation by operation, as on CPU.
    """

    tile_values: int = 1024 * 512
    longest: int = 2048
    interpret: bool = False


@dataclasses.dataclass(frozen=True)
class _Call:
    batch: int
    heads: int
    width: int
    queries: int
    keys: int
    causal: bool
    packed: bool
    biased: bool
    options: KernelOptions

    @property
    def joined(self) -> int:
        """Number of attention heads that each step of the kernel's grid computes."""
        counts = (count for count in range(1, self.heads) if self.heads % count == 0)
        return next((count for count in counts if count * self.width % LANES == 0), self.heads)

    @property
    def lanes(self) -> list[slice]:
        """Slices of the last axis: one for each attention head that a grid step computes."""
        return [slice(head * self.width, (head + 1) * self.width) for head in range(self.joined)]

    @property
    def padded_queries(self) -> int:
        return padded(self.queries)

    @property
    def padded_keys(self) -> int:
        return padded(self.keys)

    @property
    def diagonals(self) -> int:
        return self.padded_queries + self.padded_keys

    @property
    def tile(self) -> int:
        """Number of queries in a tile: a multiple of 128 that divides `padded_queries`."""
        most = max(self.options.tile_values // self.padded_keys, LANES)
        sizes = range(LANES, self.padded_queries + 1, LANES)
        return max(size for size in sizes if self.padded_queries % size == 0 and size <= most)

    @property
    def window_rows(self) -> int:
        return self.diagonals - self.tile

    def cost(self, *, products: int, arrays: int) -> pl.CostEstimate:
        """Estimate the cost of a kernel call that computes `products` matrix products per head.

        The call moves `arrays` bytes per value of queries and keys.
        """
        pairs = self.batch * self.heads * self.queries * self.keys
        positions = self.batch * self.heads * (self.queries + self.keys)
        return pl.CostEstimate(
            flops=2 * products * pairs * self.width,
            transcendentals=pairs,
            bytes_accessed=positions * self.width * arrays,
        )


def padded(length: int) -> int:
    """Round a length up to a multiple of 128."""
    return -(-length // LANES) * LANES


def diagonal_distances(queries: int, keys: int) -> Int[np.ndarray, " diagonals"]:
    """Return query minus key for each diagonal, in the order that `t5_attention` expects."""
    return np.arange(padded(queries) + padded(keys)) - padded(keys)


def t5_attention(
    q: Float[Array, "B Q J"],
    k: Float[Array, "B K J"],
    v: Float[Array, "B K J"],
    diagonals: Float[Array, "H diagonals"] | None,
    key_segments: Int[Array, "B K"],
    query_segments: Int[Array, "B Q"] | None,
    *,
    heads: int,
    causal: bool,
    options: KernelOptions,
) -> Float[Array, "B Q J"]:
    """Compute softmax(q k + bias, masked) v for each head; logits are not scaled.

    Args:
        q: queries.
        k: keys.
        v: values.
        diagonals: float32 bias of each of the `diagonal_distances`.
        key_segments: example of each key; without `query_segments`, 0 hides a key.
        query_segments: example of each query, which sees only the keys of its example.
        heads: heads in `J`.
        causal: whether a query sees no key after it.
        options: options of the kernel.
    """
    rows, queries, joined = q.shape
    sizes = (rows, heads, joined // heads, queries, k.shape[1])
    masked = {"causal": causal, "packed": query_segments is not None}
    call = _Call(*sizes, **masked, biased=diagonals is not None, options=options)

    def pad(segments: Array) -> Array:
        """Pad with -1, so that no real query attends to the padding."""
        beyond = padded(segments.shape[1]) - segments.shape[1]
        segments = segments.astype(jnp.int32)
        return jnp.pad(segments, ((0, 0), (0, beyond)), constant_values=-1)[:, None]

    segments = {"key_segments": pad(key_segments)}
    if query_segments is not None:
        segments["query_segments"] = pad(query_segments)
    return _attention(call, q, k, v, diagonals, segments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(call: _Call, q, k, v, diagonals, segments):
    inputs = {"q": q, "k": k, "v": v, **segments, **_split(call, diagonals)}
    window = {"window": _window_shape(call)} if call.biased else {}
    cost = call.cost(products=2, arrays=2 * q.dtype.itemsize)
    return _run(call, _forward_kernel, inputs, {"out": jax.typeof(q)}, window, cost)["out"]


def _forward(call: _Call, *inputs):
    return _attention(call, *inputs), inputs


def _backward(call: _Call, inputs, do):
    q, k, v, diagonals, segments = inputs
    results = {"dq": jax.typeof(q), "dk": jax.typeof(k), "dv": jax.typeof(v)}
    kv_sum = jax.ShapeDtypeStruct((call.padded_keys, call.joined * call.width), jnp.float32)
    scratch = {"dk_sum": kv_sum, "dv_sum": kv_sum}
    inputs = {"q": q, "k": k, "v": v, "do": do, **segments, **_split(call, diagonals)}
    if call.biased:
        results["ddiagonals"] = jax.ShapeDtypeStruct(inputs["diagonals"].shape, jnp.float32)
        scratch |= {"window": _window_shape(call), "dwindow": _window_shape(call)}
    cost = call.cost(products=5, arrays=7 * q.dtype.itemsize // 2)
    made = _run(call, _backward_kernel, inputs, results, scratch, cost)
    ddiagonals = made["ddiagonals"].reshape(diagonals.shape) if call.biased else None
    return made["dq"], made["dk"], made["dv"], ddiagonals, None


_attention.defvjp(_forward, _backward)


def _split(call: _Call, diagonals: Array | None) -> dict[str, Array]:
    if diagonals is None:
        return {}
    return {"diagonals": diagonals.reshape(-1, call.joined, call.diagonals)}


def _window_shape(call: _Call) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((call.joined, call.window_rows, call.tile), jnp.float32)


def _run(
    call: _Call,
    kernel: Callable[[_Call, types.SimpleNamespace], None],
    inputs: Mapping[str, Array],
    results: Mapping[str, jax.ShapeDtypeStruct],
    scratch: Mapping[str, jax.ShapeDtypeStruct],
    cost: pl.CostEstimate,
) -> dict[str, Array]:
    names = (*inputs, *results, *scratch)

    def block(name: str) -> pl.BlockSpec:
        if name.endswith("diagonals"):
            return pl.BlockSpec((1, call.joined, call.diagonals), lambda head, row: (head, 0, 0))
        kv_sum = name.removeprefix("d")[0] in "kv"
        length = call.padded_keys if kv_sum else call.padded_queries
        if name.endswith("segments"):
            return pl.BlockSpec((1, 1, length), lambda head, row: (row, 0, 0))
        wide = call.joined * call.width
        return pl.BlockSpec((1, length, wide), lambda head, row: (row, 0, head))

    made = pl.pallas_call(
        lambda *refs: kernel(call, types.SimpleNamespace(**dict(zip(names, refs, strict=True)))),
        grid=(call.heads // call.joined, call.batch),
        in_specs=[block(name) for name in inputs],
        out_specs=[block(name) for name in results],
        out_shape=list(results.values()),
        scratch_shapes=[pltpu.VMEM(array.shape, array.dtype) for array in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=cost,
        interpret=call.options.interpret,
        name=f"t5_attention{kernel.__name__.removesuffix('_kernel')}",
    )(*inputs.values())
    return dict(zip(results, made, strict=True))


def _forward_kernel(call: _Call, ref: types.SimpleNamespace) -> None:
    _fill_window_at_first_row(call, ref)
    keys = _column(ref.key_segments[0])
    k, v = (_zero_beyond(array[0], call.keys) for array in (ref.k, ref.v))

    def attend(tile: Int[Array, ""], _: None) -> None:
        start = pl.multiple_of(tile * call.tile, call.tile)
        rows = pl.ds(start, call.tile)
        q = ref.q[0, rows, :]
        allowed = _allowed(call, ref, keys, start)
        parts = []
        for head, lanes in enumerate(call.lanes):
            weights, total = _weights(call, ref, q[:, lanes], k[:, lanes], allowed, head, start)
            parts.append(_dot(v[:, lanes], weights.astype(v.dtype), (0, 0)) / total)
        ref.out[0, rows, :] = jnp.concatenate(parts, 0).T.astype(ref.out.dtype)

    jax.lax.fori_loop(0, call.padded_queries // call.tile, attend, None)


def _backward_kernel(call: _Call, ref: types.SimpleNamespace) -> None:
    _fill_window_at_first_row(call, ref)
    keys = _column(ref.key_segments[0])
    k, v = (_zero_beyond(array[0], call.keys) for array in (ref.k, ref.v))
    ref.dk_sum[...] = jnp.zeros_like(ref.dk_sum)
    ref.dv_sum[...] = jnp.zeros_like(ref.dv_sum)

    def differentiate(tile: Int[Array, ""], _: None) -> None:
        start = pl.multiple_of(tile * call.tile, call.tile)
        rows = pl.ds(start, call.tile)
        whole = call.queries == call.padded_queries
        q, do = (
            array[0, rows, :] if whole else _zero_beyond(array[0, rows, :], call.queries - start)
            for array in (ref.q, ref.do)
        )
        allowed = _allowed(call, ref, keys, start)
        dq, dk, dv = [], [], []
        for head, lanes in enumerate(call.lanes):
            q_h, k_h, v_h, do_h = (array[:, lanes] for array in (q, k, v, do))
            weights, total = _weights(call, ref, q_h, k_h, allowed, head, start)
            weights *= 1.0 / total
            dv.append(_dot(weights.astype(do.dtype), do_h, (1, 0)))
            dweights = _dot(v_h, do_h, (1, 1))
            mean = (weights * dweights).sum(axis=0, keepdims=True)
            dlogits = jnp.where(allowed, weights * (dweights - mean), 0.0)
            if call.biased:
                ref.dwindow[head, _window_part(call, start), :] += dlogits
            dlogits = dlogits.astype(q.dtype)
            dk.append(_dot(dlogits, q_h, (1, 0)))
            dq.append(_dot(k_h, dlogits, (0, 0)))
        ref.dq[0, rows, :] = jnp.concatenate(dq, 0).T.astype(ref.dq.dtype)
        ref.dk_sum[...] += jnp.concatenate(dk, 1)
        ref.dv_sum[...] += jnp.concatenate(dv, 1)

    jax.lax.fori_loop(0, call.padded_queries // call.tile, differentiate, None)
    ref.dk[0] = ref.dk_sum[...].astype(ref.dk.dtype)
    ref.dv[0] = ref.dv_sum[...].astype(ref.dv.dtype)
    _sum_window_at_last_row(call, ref)


def _dot(a: Array, b: Array, contracted: tuple[int, int]) -> Array:
    """Multiply in float32; float32 operands are not rounded to bfloat16."""
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def _zero_beyond(x: Array, length: int | Array) -> Array:
    """Replace rows from `length` on by zeros: values beyond an array's end are undefined."""
    if isinstance(length, int) and length == x.shape[0]:
        return x
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < length, x.astype(jnp.float32), 0.0).astype(x.dtype)


def _column(row: Int[Array, "1 N"]) -> Int[Array, "N 1"]:
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def _allowed(
    call: _Call, ref: types.SimpleNamespace, keys: Int[Array, "K 1"], start: Int[Array, ""]
) -> Array:
    """Return whether each query of a tile may attend to each key: Booleans [K, T]."""
    queries = pl.ds(start, call.tile)
    allowed = keys == ref.query_segments[0, :, queries] if call.packed else keys > 0
    shape = (call.padded_keys, call.tile)
    if not call.causal:
        return jnp.broadcast_to(allowed, shape)
    key, query = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return allowed & (key - query <= start)


def _weights(
    call: _Call,
    ref: types.SimpleNamespace,
    q: Float[Array, "T W"],
    k: Float[Array, "K W"],
    allowed: Array,
    head: int,
    start: Int[Array, ""],
) -> tuple[Float[Array, "K T"], Float[Array, "1 T"]]:
    """Return a head's attention weights before division by their sums, and these sums."""
    logits = _dot(k, q, (1, 1))
    if call.biased:
        logits += ref.window[head, _window_part(call, start), :]
    key = jax.lax.broadcasted_iota(jnp.int32, (call.padded_keys, 1), 0)
    logits = jnp.where(allowed, logits, jnp.where(key < call.keys, MASKED, OUTSIDE))
    weights = jnp.exp(logits - logits.max(axis=0, keepdims=True))
    return weights, weights.sum(axis=0, keepdims=True)


def _window_part(call: _Call, start: Int[Array, ""]) -> slice | pl.Slice:
    first = pl.multiple_of(call.padded_queries - call.tile - start, LANES)
    return pl.ds(first, call.padded_keys)


# The position bias's window has diagonals[c - y + window_rows] in row y, column c: each row is the
# previous row, moved by one lane. A copy of whole registers must begin at a multiple of 128 lanes.
# So the kernel splits y into 128 i + s. It rolls the diagonals by s lanes, and copies row y from
# lane window_rows - 128 i. It copies eight rows at a time, one per sublane r: s = 8 j + r.


def _fill_window_at_first_row(call: _Call, ref: types.SimpleNamespace) -> None:
    if not call.biased:
        return

    def fill(head: int) -> None:
        row = ref.diagonals[0, head : head + 1, :]
        rolled = jnp.concatenate([_roll(row, shift) for shift in range(SUBLANES)], 0)

        def fill_rows(j: Int[Array, ""], rolled: Array) -> Array:
            for i in range(call.window_rows // LANES):
                first = call.window_rows - i * LANES
                values = rolled[:, first : first + call.tile]
                ref.window[head, _eight_rows(i, j), :] = values
            return _roll(rolled, SUBLANES)

        jax.lax.fori_loop(0, LANES // SUBLANES, fill_rows, rolled)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        if hasattr(ref, "dwindow"):
            ref.dwindow[...] = jnp.zeros_like(ref.dwindow)
        for head in range(call.joined):
            fill(head)


def _sum_window_at_last_row(call: _Call, ref: types.SimpleNamespace) -> None:
    """After the batch's last row, sum the position bias's gradient along each diagonal."""
    if not call.biased:
        return

    def sum_rows(head: int, j: Int[Array, ""]) -> Array:
        parts = [jnp.zeros((SUBLANES, LANES), jnp.float32)] * (call.diagonals // LANES)
        for i in range(call.window_rows // LANES):
            values = ref.dwindow[head, _eight_rows(i, j), :]
            for part in range(call.tile // LANES):
                at = call.window_rows // LANES - i + part
                parts[at] += values[:, part * LANES : (part + 1) * LANES]
        return jnp.concatenate(parts, 1)

    def sum_head(head: int) -> Array:
        def add_rows(step: Int[Array, ""], sums: Array) -> Array:
            return _roll(sums, -SUBLANES) + sum_rows(head, LANES // SUBLANES - 1 - step)

        sums = jnp.zeros((SUBLANES, call.diagonals), jnp.float32)
        sums = jax.lax.fori_loop(0, LANES // SUBLANES, add_rows, sums)
        return functools.reduce(jnp.add, (_roll(sums[r : r + 1], -r) for r in range(SUBLANES)))

    @pl.when(pl.program_id(1) == call.batch - 1)
    def _() -> None:
        for head in range(call.joined):
            ref.ddiagonals[0, head : head + 1, :] = sum_head(head)


def _eight_rows(i: int, j: Int[Array, ""]) -> slice | pl.Slice:
    return pl.ds(pl.multiple_of(i * LANES + j * SUBLANES, SUBLANES), SUBLANES)


def _roll(x: Array, shift: int) -> Array:
    return pltpu.roll(x, shift % x.shape[1], 1)
