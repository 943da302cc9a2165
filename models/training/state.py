"""A model as arrays: a static skeleton, and parameters in a flat dictionary by dotted name.

Code that walks over parameters (optimizer, checkpoints, sharding, counts) sees only
`{"encoder.periods.2.blocks.0.self_attention.query.kernel": array}`, not the module tree. With
`scan_layers`, `encoder.periods.blocks.0.self_attention.query.kernel` has all periods, along a first
axis `layers`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from mswitch.models.config import Freeze, ModelConfig, TrainConfig
from mswitch.models.nn.transformer import Transformer
from mswitch.models.partitioning import shard_parameter
from mswitch.models.training.optimizer import Moment, Optimizer, find_moment_axes

Parameters = dict[str, Array]
Value = TypeVar("Value")


class TrainState(NamedTuple):
    """Everything that training changes. A resumed run needs only this state, seed and step.

    Attributes:
        parameters: arrays by dotted name.
        moments: the optimizer's moments, by the same names; frozen parameters have none.
        step: optimizer steps done.
    """

    parameters: Parameters
    moments: dict[str, Moment]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without the values of its parameters.

    Attributes:
        graph: the module tree.
        paths: path of each parameter in the tree.
        shapes: shapes and types of the parameters.
        axes: logical names of their dimensions.
        mesh: devices, or None for one.
        config: the architecture.
        train: training settings; the tree depends on compute type, scan, remat and attention.
    """

    graph: Any
    paths: Mapping[str, tuple[Any, ...]]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    axes: Mapping[str, tuple[str, ...]]
    mesh: Mesh | None
    config: ModelConfig
    train: TrainConfig

    @classmethod
    def build(cls, config: ModelConfig, train: TrainConfig, mesh: Mesh | None = None) -> "Skeleton":
        """Build the skeleton of a model; no parameter is allocated."""
        names = ("dtype", "scan_layers", "remat", "attention")
        kept = TrainConfig(**{name: getattr(train, name) for name in names})
        graph, paths, shapes, axes = _trace_tree(config, kept, mesh)
        return cls(graph, paths, shapes, axes, mesh, config, train)

    def select_trained(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values of parameters that are not frozen, by name."""
        freeze = self.train.freeze
        return {name: value for name, value in values.items() if not is_frozen(name, freeze)}

    def merge(self, parameters: Mapping[str, Array]) -> Transformer:
        """Return the model with these parameters."""
        state = nnx.from_flat_state(
            [(path, nnx.Param(parameters[name])) for name, path in self.paths.items()]
        )
        return nnx.merge(self.graph, state)

    def lay_out(self, unscanned: Mapping[str, Array]) -> Parameters:
        """Convert parameters from the layout without `scan_layers` to this model's layout."""
        stored = {}
        for name, shape in self.shapes.items():
            stack, scanned, rest = name.partition(".periods.blocks.")
            if scanned:
                periods = range(shape.shape[0])
                parts = [unscanned[f"{stack}.periods.{period}.blocks.{rest}"] for period in periods]
                stored[name] = jnp.stack(parts)
            else:
                stored[name] = unscanned[name]
        return stored

    def matmul_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which a float32 model is traced with float32 products.

        By default a TPU uses one bfloat16 pass, and a recent GPU TF32.
        """
        if self.train.dtype == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def initial_parameters(self) -> Parameters:
        """Draw the parameters from the run's seed; JAX can trace this function."""
        model = _create(self.config, self.train, self.mesh)
        values = {path: variable[...] for path, variable in nnx.to_flat_state(nnx.state(model))}
        return {name: values[path] for name, path in self.paths.items()}

    def initial_state(self, optimizer: Optimizer) -> TrainState:
        """Draw a new run's state, making each array on the devices that store it."""

        def create() -> TrainState:
            parameters = self.initial_parameters()
            moments = optimizer.init(self.select_trained(parameters), self.axes)
            return TrainState(parameters, moments, jnp.zeros((), jnp.int32))

        return jax.jit(create, out_shardings=self.state_shardings(optimizer))()

    def abstract_parameters(self) -> Parameters:
        """Return shapes, types and shardings of the parameters, for restoring."""
        placed = {name: self._place(shape, self.axes[name]) for name, shape in self.shapes.items()}
        return cast(Parameters, placed)

    def abstract_state(self, optimizer: Optimizer) -> TrainState:
        """Return shapes, types and shardings of a run's state, for restoring and compiling."""
        moments = jax.eval_shape(
            lambda values: optimizer.init(values, self.axes), self.select_trained(self.shapes)
        )
        placed = {
            name: type(moment)(*map(self._place, moment, find_moment_axes(moment, self.axes[name])))
            for name, moment in moments.items()
        }
        step = self._place(jax.ShapeDtypeStruct((), jnp.int32), ())
        return TrainState(self.abstract_parameters(), placed, cast(Array, step))

    def state_shardings(self, optimizer: Optimizer) -> TrainState | None:
        """Return the sharding of every array of a run's state; None without a mesh."""
        if self.mesh is None:
            return None
        return jax.tree.map(lambda array: array.sharding, self.abstract_state(optimizer))

    def _place(self, array: Any, axes: Sequence[str]) -> jax.ShapeDtypeStruct:
        if self.mesh is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        else:
            sharding = NamedSharding(self.mesh, shard_parameter(axes, array.shape, self.mesh))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


@functools.lru_cache(maxsize=64)
def _trace_tree(
    config: ModelConfig, train: TrainConfig, mesh: Mesh | None
) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the module graph of a model, and the paths, shapes and axes of its parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: _create(config, train, mesh)))
    paths, shapes, axes = {}, {}, {}
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(str(part) for part in path)
        paths[name] = path
        shapes[name] = jax.ShapeDtypeStruct(variable.shape, variable.dtype)
        stacked = ("layers",) if train.scan_layers and "periods" in path else ()
        axes[name] = (*stacked, *variable.get_metadata("axes"))
    return graph, paths, shapes, axes


def _create(config: ModelConfig, train: TrainConfig, mesh: Mesh | None) -> Transformer:
    return Transformer(config, train, mesh=mesh, rngs=nnx.Rngs(params=train.seed))


def unroll(parameters: Mapping[str, Array]) -> Parameters:
    """Convert parameters to the layout without `scan_layers`, unless they already have it."""
    unscanned = {}
    for name, value in parameters.items():
        stack, scanned, rest = name.partition(".periods.blocks.")
        if not scanned:
            unscanned[name] = value
            continue
        for period, part in enumerate(value):
            unscanned[f"{stack}.periods.{period}.blocks.{rest}"] = part
    return unscanned


def find_dense_name(name: str, period: int) -> str:
    """Convert the name of a sparse model's parameter to its name in a dense model.

    Both names are for models without `scan_layers`.
    """
    stack, repeated, rest = name.partition(".periods.")
    if not repeated:
        return name
    index, _, block, rest = rest.split(".", 3)
    layer = int(index) * period + int(block)
    if rest.startswith("switch."):
        rest = f"feed_forward.{rest.removeprefix('switch.')}.kernel"
    return f"{stack}.periods.{layer}.blocks.0.{rest}"


def is_frozen(name: str, freeze: Freeze) -> bool:
    """Return whether `--freeze` keeps a parameter unchanged."""
    return freeze != "none" and (find_group(name) == "experts") == (freeze == "experts")


def find_group(name: str) -> str:
    """Return the group of a parameter: embedding, logits, attention, experts and so on."""
    parts = name.split(".")
    if parts[0] in ("embedding", "logits"):
        return parts[0]
    if "router" in parts:
        return "routers"
    if "switch" in parts:
        return "experts"
    if any(part.endswith("norm") for part in parts):
        return "norms"
    if "feed_forward" in parts:
        return "feed_forward"
    return "attention"


def count_parameters(skeleton: Skeleton) -> dict[str, int]:
    """Count the parameters by group: embedding, logits, attention, experts and so on."""
    counts: dict[str, int] = {}
    for name, shape in skeleton.shapes.items():
        group = find_group(name)
        counts[group] = counts.get(group, 0) + math.prod(shape.shape)
    return counts
