"""Metrics of the routers in a step."""

import jax.numpy as jnp
from jaxtyping import Array

from mswitch.models.nn.router import RoutingStats


def sum_routing(stats: tuple[RoutingStats, RoutingStats]) -> dict[str, Array]:
    """Sum routing statistics of each sparse layer over its routed tokens; encoder layers first.

    Sums of parts of a batch can be added; `compute_routing_metrics` divides.
    """
    tokens = jnp.concatenate([(part.expert >= 0).sum(axis=(1, 2)) for part in stats])

    def multiply_by_tokens(name: str) -> Array:
        means = jnp.concatenate([getattr(part, name) for part in stats])
        return means * tokens.reshape(-1, *[1] * (means.ndim - 1))

    means = ("drop_fraction", "entropy", "confidence", "load")
    return {"tokens": tokens, **{name: multiply_by_tokens(name) for name in means}}


def compute_routing_metrics(sums: dict[str, Array], encoder_layers: int) -> dict[str, Array]:
    """Compute the routing metrics; the first `encoder_layers` sparse layers are the encoder's.

    `drop_fraction`, `entropy` and `confidence` are means over layers. `drop_fraction_encoder` and
    `drop_fraction_decoder` are means over one stack. `max_load` is the largest share of one expert
    in any layer, as a multiple of an even share. `layer_...` has a value per layer, and `load` the
    shares of its experts.
    """
    tokens = jnp.maximum(sums["tokens"], 1)
    load = sums["load"] / tokens[:, None]
    layers = {name: sums[name] / tokens for name in ("drop_fraction", "entropy", "confidence")}
    layers["max_load"] = load.max(axis=-1) * load.shape[-1]
    return {
        **{name: values.mean() for name, values in layers.items()},
        "drop_fraction_encoder": layers["drop_fraction"][:encoder_layers].mean(),
        "drop_fraction_decoder": layers["drop_fraction"][encoder_layers:].mean(),
        "max_load": layers["max_load"].max(),
        **{f"layer_{name}": values for name, values in layers.items()},
        "load": load,
    }
