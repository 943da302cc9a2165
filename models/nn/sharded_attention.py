"""Choose how a model computes attention, and run the kernel or cuDNN's attention on a mesh."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from mswitch.models.config import AttentionChoice
from mswitch.models.nn.t5_attention import KernelOptions, padded, t5_attention
from mswitch.models.partitioning import BATCH_AXES
from mswitch.pipelines.errors import UserError

#: Widths of a head for which `auto` chooses the kernel. Tests compile it for these.
WIDTHS = (64, 128)
#: TPUs that the kernel compiles for. Keys are prefixes of JAX's names for devices. v4 has 16 MB of
#: on-chip memory, the others at least four times as much. Kernels on v3 have no bfloat16 products.
TPUS = {
    "TPU v4": KernelOptions(tile_values=1024 * 128, longest=1024),
    "TPU v5": KernelOptions(),
    "TPU v6": KernelOptions(),
}


@dataclasses.dataclass(frozen=True)
class KernelMask:
    """Attention mask in the form that the kernel and cuDNN take, with the kernel's options.

    Attributes:
        keys: example of each key; without `queries`, 0 hides a key.
        queries: example of each query, which sees only the keys of its example.
        causal: whether a query sees no key after it.
        options: options of the kernel, or `cudnn`.
        mesh: devices, or None for one.
    """

    keys: Int[Array, "B K"]
    queries: Int[Array, "B Q"] | None
    causal: bool
    options: KernelOptions | Literal["cudnn"]
    mesh: Mesh | None


def find_device_kind(mesh: Mesh | None) -> str:
    """Return JAX's name for the mesh's devices, or for the default device."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return device.device_kind


def choose_kernel(
    choice: AttentionChoice, width: int, lengths: tuple[int, int], kind: str
) -> KernelOptions | Literal["cudnn"] | None:
    """Choose whether the TPU kernel, cuDNN or XLA computes attention on a kind of device.

    Return the kernel's options, `cudnn`, or None for XLA. `width` is a head's. `lengths` are
    positions of a row in encoder and decoder. `kind` is JAX's name for the device.

    Raises:
        UserError: `kernel` or `cudnn` is chosen, but does not run on that device.
    """
    if choice == "xla":
        return None
    if choice == "cudnn":
        if not kind.startswith("NVIDIA") or width % 8 or width > 128:
            raise UserError(
                "--attention cudnn is for NVIDIA's GPUs and heads of 8, 16, ... or 128 values, not "
                f"for {kind} and heads of {width}: give --attention auto"
            )
        return "cudnn"
    options = next((TPUS[name] for name in TPUS if kind.startswith(name)), None)
    if choice == "auto":
        fits = options is not None and width in WIDTHS and max(lengths) <= options.longest
        return options if fits else None
    if kind == "cpu":
        options = KernelOptions(interpret=True)
    if options is None:
        raise UserError(
            f"--attention kernel is for {', '.join(TPUS)} (and slowly for CPU), not for {kind}: "
            "give --attention auto"
        )
    if max(lengths) > options.longest:
        raise UserError(
            f"--attention kernel takes rows of up to {options.longest:,} positions on {kind}, and "
            f"there are {max(lengths):,}: give --attention auto"
        )
    return options


def name_attention(chosen: KernelOptions | Literal["cudnn"] | None) -> AttentionChoice:
    """Convert a result of `choose_kernel` to a name: `kernel`, `cudnn` or `xla`."""
    if isinstance(chosen, KernelOptions):
        return "kernel"
    return chosen or "xla"


def attend_by_kernel(
    q: Float[Array, "B Q J"],
    k: Float[Array, "B K J"],
    v: Float[Array, "B K J"],
    mask: KernelMask,
    diagonals: Float[Array, "H diagonals"] | None,
    *,
    heads: int,
) -> Float[Array, "B Q J"]:
    """Compute attention with rows sharded over `data` and `expert`, and heads over `model`."""
    heads //= 1 if mask.mesh is None else mask.mesh.shape["model"]
    if mask.options == "cudnn":
        attend = functools.partial(attend_by_library, heads=heads, causal=mask.causal)
    else:
        how = {"heads": heads, "causal": mask.causal, "options": mask.options}
        attend = functools.partial(t5_attention, **how)
    if mask.mesh is not None:
        wide, rows = PartitionSpec(BATCH_AXES, None, "model"), PartitionSpec(BATCH_AXES, None)
        attend = jax.shard_map(
            attend,
            mesh=mask.mesh,
            in_specs=(wide, wide, wide, PartitionSpec("model", None), rows, rows),
            out_specs=wide,
            check_vma=False,
        )
    return attend(q, k, v, diagonals, mask.keys, mask.queries)


def attend_by_library(
    q: Float[Array, "B Q J"],
    k: Float[Array, "B K J"],
    v: Float[Array, "B K J"],
    diagonals: Float[Array, "H diagonals"] | None,
    key_segments: Int[Array, "B K"],
    query_segments: Int[Array, "B Q"] | None,
    *,
    heads: int,
    causal: bool,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B Q J"]:
    """Compute attention by JAX's `dot_product_attention`; arguments as in `t5_attention`.

    Without `query_segments`, hidden keys must come last. A row without keys sees its first key. The
    bias is rounded to the type of `q`. In packed rows, bias and mask are one array, [B, H, Q, K].
    """
    rows, length, joined = q.shape
    # In training, cuDNN takes only even numbers of positions. No real query sees an added key.
    q, k, v, key_segments = map(_pad_to_even, (q, k, v, key_segments))
    bias, mask, seen = None, None, None
    if diagonals is not None:
        places = np.subtract.outer(np.arange(q.shape[1]), np.arange(k.shape[1]))
        bias = diagonals[:, places + padded(k.shape[1])][None].astype(q.dtype)
    if query_segments is None:
        seen = jnp.maximum(1, (key_segments != 0).sum(1))
    else:
        query_segments = _pad_to_even(query_segments)
        mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    q, k, v = (y.reshape(*y.shape[:2], heads, -1) for y in (q, k, v))
    attended = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias,
        mask,
        scale=1.0,
        is_causal=causal,
        key_value_seq_lengths=seen,
        implementation=implementation,
    )
    return attended.reshape(rows, -1, joined)[:, :length]


def _pad_to_even(values: Array) -> Array:
    """Add a position of zeros if the number of positions, the second axis, is odd."""
    return jnp.pad(
        values, [(0, values.shape[1] % 2 if axis == 1 else 0) for axis in range(values.ndim)]
    )
