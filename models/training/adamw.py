"""AdamW: Optax's, on the flat dictionary of parameters that training uses.

It pools nothing over a parameter, so stacked layers and experts need no care.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models.training.optimizer import STACKED_AXES, AdamMoments, Moment, Update

#: Decay of the mean square: 0.999, Optax's default, remembers a spike for a thousand steps.
SQUARE_DECAY = 0.95


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Attributes:
        base_learning_rate: multiplies the schedule.
        warmup_steps: steps until the rate is base / sqrt(warmup_steps), its highest.
        weight_decay: of matrices, not of norm scales and position biases.
    """

    base_learning_rate: float = 1.0
    warmup_steps: int = 10_000
    weight_decay: float = 0.0

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Linear warm-up, then the inverse square root (Vaswani et al. 2017, equation 3)."""
        done = jnp.asarray(step + 1, jnp.float32)
        rate = jnp.minimum(done * self.warmup_steps**-1.5, done**-0.5)
        return self.base_learning_rate * rate

    def init(
        self, parameters: Mapping[str, Array], axes: Mapping[str, Sequence[str]]
    ) -> dict[str, Moment]:
        """Zero moments, in float32."""
        del axes
        return {
            name: AdamMoments(*(jnp.zeros(parameter.shape, jnp.float32) for _ in range(2)))
            for name, parameter in parameters.items()
        }

    def update(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        moments: Mapping[str, Moment],
        step: Int[Array, ""],
        axes: Mapping[str, Sequence[str]],
    ) -> Update:
        """One step; `step` counts from 0."""
        adam = optax.scale_by_adam(b2=SQUARE_DECAY)
        means, squares = ({name: m[part] for name, m in moments.items()} for part in range(2))
        updates: Any
        state: Any
        updates, state = adam.update(
            {name: gradient.astype(jnp.float32) for name, gradient in gradients.items()},
            optax.ScaleByAdamState(step, means, squares),
        )
        rate = self.learning_rate(step)
        new = {}
        for name, parameter in parameters.items():
            decay = self.weight_decay if _is_matrix(axes[name]) else 0.0
            change = rate * (updates[name] + decay * parameter)
            new[name] = (parameter - change).astype(parameter.dtype)
        made: dict[str, Moment] = {
            name: AdamMoments(state.mu[name], state.nu[name]) for name in parameters
        }
        return Update(new, made, optax.global_norm(gradients))


def _is_matrix(axes: Sequence[str]) -> bool:
    """Whether each of the stacked parameters is a kernel or an embedding."""
    own = [axis for axis in axes if axis not in STACKED_AXES]
    return len(own) == 2 and "buckets" not in own
