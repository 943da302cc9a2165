"""Optimizers on a flat dictionary of parameters: what they share, and Adafactor as T5X has it.

Optax's Adafactor differs where it matters here: it pools all experts (and scanned layers) of a
parameter into one root mean square, and may factor over the expert axis. Here the leading
`layers` and `expert` axes are batch axes: each expert of each layer is updated as if it were a
parameter of its own, so scanned and unrolled, sharded and not, give the same update.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: Logical axes over which nothing is pooled.
STACKED_AXES = ("layers", "expert")


class FactoredMoment(NamedTuple):
    """Second moment of matrices [..., R, C] as the means of their rows and columns."""

    row: Float[Array, "... R"]
    column: Float[Array, "... C"]


class FullMoment(NamedTuple):
    """Second moment, value by value."""

    values: Float[Array, "..."]


class AdamMoments(NamedTuple):
    """Running means of the gradient and of its square, value by value."""

    mean: Float[Array, "..."]
    square: Float[Array, "..."]


Moment = FactoredMoment | FullMoment | AdamMoments


class Optimizer(Protocol):
    """What a training step needs: `Adafactor`, or `models.adamw.AdamW`."""

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The rate of a step, from 0."""
        ...

    def init(
        self, parameters: Mapping[str, Array], axes: Mapping[str, Sequence[str]]
    ) -> dict[str, Moment]:
        """Zero moments, in float32, for parameters with these logical axes."""
        ...

    def update(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        moments: Mapping[str, Moment],
        step: Int[Array, ""],
        axes: Mapping[str, Sequence[str]],
    ) -> tuple[dict[str, Array], dict[str, Moment]]:
        """One step; `step` counts from 0. Gives new parameters and new moments."""
        ...


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor (Shazeer and Stern 2018) with T5X's hyperparameters.

    Attributes:
        base_learning_rate: multiplies the schedule.
        warmup_steps: steps of constant rate before it falls with the inverse square root.
        decay_exponent: second-moment decay at step t (from 0) is 1 - (t + 1)^-exponent.
        clipping_threshold: largest root mean square of an update before scaling.
        min_dim_size_to_factor: a matrix with a smaller dimension keeps its full moment.
        epsilon1: added to squared gradients.
        epsilon2: least scale of a parameter.
    """

    base_learning_rate: float = 1.0
    warmup_steps: int = 10_000
    decay_exponent: float = 0.8
    clipping_threshold: float = 1.0
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """T5's schedule: base / sqrt(max(step, warmup)), without a linear ramp."""
        late = jnp.maximum(step, self.warmup_steps).astype(jnp.float32)
        return self.base_learning_rate / jnp.sqrt(late)

    def factored(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
        """Whether a parameter's moment is kept as rows and columns."""
        matrix = shape[_stacked(axes) :]
        return len(matrix) == 2 and min(matrix) >= self.min_dim_size_to_factor

    def init(
        self, parameters: Mapping[str, Array], axes: Mapping[str, Sequence[str]]
    ) -> dict[str, Moment]:
        """Zero moments, in float32, for parameters with these logical axes."""

        def zeros(name: str, parameter: Array) -> Moment:
            shape = parameter.shape
            if self.factored(shape, axes[name]):
                row = jnp.zeros(shape[:-1], jnp.float32)
                return FactoredMoment(row, jnp.zeros((*shape[:-2], shape[-1]), jnp.float32))
            return FullMoment(jnp.zeros(shape, jnp.float32))

        return {name: zeros(name, parameter) for name, parameter in parameters.items()}

    def update(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        moments: Mapping[str, Moment],
        step: Int[Array, ""],
        axes: Mapping[str, Sequence[str]],
    ) -> tuple[dict[str, Array], dict[str, Moment]]:
        """One step; `step` counts from 0. Gives new parameters and new moments."""
        updated = {
            name: self._update_one(
                parameter, gradients[name], moments[name], step, _stacked(axes[name])
            )
            for name, parameter in parameters.items()
        }
        return (
            {name: parameter for name, (parameter, _) in updated.items()},
            {name: moment for name, (_, moment) in updated.items()},
        )

    def _update_one(
        self, parameter: Array, gradient: Array, moment: Moment, step: Array, stacked: int
    ) -> tuple[Array, Moment]:
        assert not isinstance(moment, AdamMoments)
        own_axes = tuple(range(stacked, parameter.ndim))

        def root_mean_square(x: Array) -> Array:
            return jnp.sqrt(jnp.mean(jnp.square(x), axis=own_axes, keepdims=True))

        gradient = gradient.astype(jnp.float32)
        decay = 1.0 - (step.astype(jnp.float32) + 1.0) ** -self.decay_exponent
        square = jnp.square(gradient) + self.epsilon1
        if isinstance(moment, FactoredMoment):
            row = decay * moment.row + (1.0 - decay) * square.mean(axis=-1)
            column = decay * moment.column + (1.0 - decay) * square.mean(axis=-2)
            row_factor = (row / row.mean(axis=-1, keepdims=True)) ** -0.5
            update = gradient * row_factor[..., :, None] * (column**-0.5)[..., None, :]
            moment = FactoredMoment(row, column)
        else:
            values = decay * moment.values + (1.0 - decay) * square
            update = gradient * values**-0.5
            moment = FullMoment(values)
        update /= jnp.maximum(1.0, root_mean_square(update) / self.clipping_threshold)
        scale = jnp.maximum(root_mean_square(parameter), self.epsilon2)
        new = parameter - self.learning_rate(step) * scale * update
        return new.astype(parameter.dtype), moment


def moment_axes(moment: Moment, axes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The logical axes of each of a moment's arrays, given its parameter's."""
    if isinstance(moment, FactoredMoment):
        return tuple(axes[:-1]), (*axes[:-2], axes[-1])
    return (tuple(axes),) * len(moment)


def _stacked(axes: Sequence[str]) -> int:
    """How many leading axes stack independent parameters."""
    count = 0
    while count < len(axes) and axes[count] in STACKED_AXES:
        count += 1
    return count
