"""Analytic cost of one training step, in floating-point operations (a multiply-add is two).

XLA's own count cannot replace it: it counts a loop's body once, and elementwise work like matrix
products. A test compares both counts on an unrolled step; `mswitch plan` compares them on programs
compiled for TPUs.
"""

from mswitch.models.capacity import expert_capacity, group_batch
from mswitch.models.config import FUSED_ATTENTION, ModelConfig, TrainConfig

#: The backward pass of a product is two products of its size, one per operand.
FORWARD_AND_BACKWARD = 3


def count_feed_forward_flops(config: ModelConfig) -> int:
    """Count the forward FLOPs of one position in a dense layer, or of one slot of an expert."""
    matrices = 3 if config.activation == "geglu" else 2
    return 2 * matrices * config.d_model * config.d_ff


def count_attention_flops(
    config: ModelConfig, batch_size: int, query_length: int, key_length: int
) -> int:
    """Count the forward FLOPs of an attention layer: four projections, logits, weighted sum."""
    kernel = config.d_model * config.joined_kv
    projections = 2 * kernel * (2 * query_length + 2 * key_length)
    products = 2 * 2 * config.joined_kv * query_length * key_length
    return batch_size * (projections + products)


def count_sparse_layer_flops(config: ModelConfig, batch_size: int, length: int, groups: int) -> int:
    """Count the forward FLOPs of a Switch layer's router and slots, including empty slots."""
    positions = batch_size * length
    capacity = expert_capacity(config.capacity_factor, positions // groups, config.experts)
    slots = groups * config.experts * capacity
    router = 2 * positions * config.d_model * config.experts
    if config.routing == "hash":
        router = 0
    return router + slots * count_feed_forward_flops(config)


def count_logits_flops(config: ModelConfig, batch_size: int, targets_length: int) -> int:
    """Count the forward FLOPs of the logits of a batch."""
    return 2 * batch_size * targets_length * config.d_model * config.vocabulary_size


def count_forward_flops(
    config: ModelConfig, batch_size: int, inputs_length: int, targets_length: int
) -> int:
    """Count the matrix-product FLOPs of one forward pass over a batch."""
    groups = group_batch(config, batch_size, inputs_length, targets_length)

    def feed_forward(layers: int, length: int, groups: int) -> int:
        sparse = layers // config.sparse_every if config.sparse else 0
        dense = (layers - sparse) * batch_size * length * count_feed_forward_flops(config)
        if not sparse:
            return dense
        return dense + sparse * count_sparse_layer_flops(config, batch_size, length, groups)

    encoder = config.encoder_layers * count_attention_flops(
        config, batch_size, inputs_length, inputs_length
    ) + feed_forward(config.encoder_layers, inputs_length, groups.encoder)
    decoder = config.decoder_layers * (
        count_attention_flops(config, batch_size, targets_length, targets_length)
        + count_attention_flops(config, batch_size, targets_length, inputs_length)
    ) + feed_forward(config.decoder_layers, targets_length, groups.decoder)
    return encoder + decoder + count_logits_flops(config, batch_size, targets_length)


def count_training_step_flops(
    config: ModelConfig, batch_size: int, inputs_length: int, targets_length: int
) -> int:
    """Count the matrix-product FLOPs of one training step's forward and backward pass.

    The count excludes the optimizer, norms, softmaxes and activations (a few percent). It also
    excludes recomputation by `remat` and chunked logits, which is a cost of settings, not of the
    model.
    """
    return FORWARD_AND_BACKWARD * count_forward_flops(
        config, batch_size, inputs_length, targets_length
    )


def count_recomputed_flops(
    config: ModelConfig, train: TrainConfig, inputs_length: int, targets_length: int
) -> int:
    """Count the matrix-product FLOPs that memory settings add to one training step.

    Remat `layers` repeats the layers' forward pass. Remat `attention` and fused attention
    repeat the products of queries and keys. Several loss chunks repeat the logits.
    """
    logits = count_logits_flops(config, train.rows, targets_length)
    again = logits if train.loss_chunks > 1 else 0
    if train.remat == "layers":
        again += count_forward_flops(config, train.rows, inputs_length, targets_length) - logits
    if train.remat == "attention" or train.attention in FUSED_ATTENTION:
        pairs = config.encoder_layers * inputs_length**2
        pairs += config.decoder_layers * targets_length * (targets_length + inputs_length)
        again += 2 * train.rows * config.joined_kv * pairs
    return again
