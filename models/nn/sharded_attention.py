"""Choose how a model computes attention, and run the kernel on a mesh.

Each device computes its own rows and heads.
"""

import dataclasses
import functools

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from mswitch.models.config import AttentionChoice
from mswitch.models.nn.t5_attention import KernelOptions, t5_attention
from mswitch.models.partitioning import BATCH_AXES
from mswitch.pipelines.errors import UserError

#: Widths of a head that the kernel was compiled for.
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
    """Attention mask in the form that the kernel takes, with the kernel's options.

    Attributes:
        keys: example of each key; without `queries`, 0 hides a key.
        queries: example of each query, which sees only the keys of its example.
        causal: whether a query sees no key after it.
        options: options of the kernel.
        mesh: devices, or None for one.
    """

    keys: Int[Array, "B K"]
    queries: Int[Array, "B Q"] | None
    causal: bool
    options: KernelOptions
    mesh: Mesh | None


def find_device_kind(mesh: Mesh | None) -> str:
    """Return JAX's name for the mesh's devices, or for the default device."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return device.device_kind


def choose_kernel(
    choice: AttentionChoice, width: int, lengths: tuple[int, int], kind: str
) -> KernelOptions | None:
    """Return the kernel's options for a kind of device, or None if XLA computes attention.

    Args:
        choice: `--attention`.
        width: width of a head.
        lengths: positions of a row in encoder and decoder.
        kind: JAX's name for the device.

    Raises:
        UserError: `kernel` is chosen, but does not run on that device.
    """
    if choice == "xla":
        return None
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


def attend_by_kernel(
    q: Float[Array, "B Q J"],
    k: Float[Array, "B K J"],
    v: Float[Array, "B K J"],
    mask: KernelMask,
    diagonals: Float[Array, "H diagonals"] | None,
    *,
    heads: int,
) -> Float[Array, "B Q J"]:
    """Compute `t5_attention` with rows sharded over `data` and `expert`, and heads over `model`."""
    heads //= 1 if mask.mesh is None else mask.mesh.shape["model"]
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
