"""Capacity of experts, and the routing groups within which tokens compete for slots.

Encoder and decoder have separate groups, since their sequences differ in length. With one count for
both, the decoder's short sequences would make small groups. These drop many tokens even if routing
is random. Nothing here depends on the number of devices.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from mswitch.models.config import ModelConfig

#: With fewer positions per expert, many experts overflow by chance. At capacity factor 1.25 and
#: with independent logits, 2.3 % of tokens are dropped at 16 positions per expert, and 5.3 % at 8.
FEW_POSITIONS = 16
MIN_CAPACITY = 4


class Groups(NamedTuple):
    """Number of routing groups of a batch, in each stack."""

    encoder: int = 1
    decoder: int = 1

    @property
    def separable(self) -> int:
        """Largest number of equal parts of a batch that keep every routing group whole."""
        return math.gcd(self.encoder, self.decoder)

    def divide(self, parts: int) -> "Groups":
        """Return the number of routing groups in one of `parts` equal parts of a batch.

        `parts` must divide `separable`.
        """
        return Groups(self.encoder // parts, self.decoder // parts)


WHOLE_BATCH = Groups()


def count_groups(batch_size: int, length: int, group_size: int) -> int:
    """Count the routing groups of one stack; each group contains whole sequences.

    The number of sequences in a group is the largest divisor of the batch size with which a group
    has at most `group_size` positions (at least one sequence).
    """
    fitting = max(1, min(batch_size, group_size // length))
    sequences = next(n for n in range(fitting, 0, -1) if batch_size % n == 0)
    return batch_size // sequences


def group_batch(
    model: ModelConfig, batch_size: int, inputs_length: int, targets_length: int
) -> Groups:
    """Return the routing groups of a batch; in a dense model each sequence counts as one group."""
    if not model.sparse:
        return Groups(batch_size, batch_size)
    return Groups(
        count_groups(batch_size, inputs_length, model.group_size),
        count_groups(batch_size, targets_length, model.group_size),
    )


def warn_of_small_groups(
    model: ModelConfig, batch_size: int, inputs_length: int, targets_length: int
) -> Iterator[str]:
    """Yield a line for each stack whose groups are so small that many tokens will be dropped."""
    if not model.sparse:
        return
    groups = group_batch(model, batch_size, inputs_length, targets_length)
    lengths = (inputs_length, targets_length)
    for stack, count, length in zip(Groups._fields, groups, lengths, strict=True):
        positions = batch_size * length // count
        each = positions / model.experts
        if each < FEW_POSITIONS:
            option = "--batch-size" if count == 1 else "--group-size"
            yield (
                f"warning: a routing group of the {stack} has {positions:,} positions, {each:.1f} "
                f"for each of {model.experts:,} experts; below {FEW_POSITIONS} many tokens get "
                f"no slot: raise {option}"
            )


def expert_capacity(capacity_factor: float, group_positions: int, experts: int) -> int:
    """Return how many tokens of a routing group each expert accepts.

    It is round(factor * positions / experts), at least 4, at most all positions of the group.
    """
    capacity = round(capacity_factor * group_positions / experts)
    return min(max(capacity, MIN_CAPACITY), group_positions)
