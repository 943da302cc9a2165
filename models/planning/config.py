"""Settings of `mswitch plan`."""

import dataclasses

from mswitch.models.config import AttentionChoice, Remat
from mswitch.pipelines.config_checks import Count, check_fields


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Batch and fixed settings of a plan; the memory model chooses any setting that is None.

    Attributes:
        batch_size: sequences per step, over all devices.
        inputs_length: encoder positions of a sequence.
        targets_length: decoder positions of a sequence; 229 belong to 1024 inputs.
        data_parallel: devices along the mesh axis `data`.
        expert_parallel: devices along the mesh axis `expert`.
        model_parallel: devices along the mesh axis `model`.
        microbatches: parts of a batch whose gradients are added up.
        loss_chunks: parts of the target length, computed one after another.
        remat: values that the backward pass recomputes.
        attention: how attention is computed, as in training.
    """

    batch_size: Count = 1024
    inputs_length: Count = 1024
    targets_length: Count = 229
    data_parallel: Count | None = None
    expert_parallel: Count | None = None
    model_parallel: Count | None = None
    microbatches: Count | None = None
    loss_chunks: Count | None = None
    remat: Remat | None = None
    attention: AttentionChoice = "auto"

    def __post_init__(self):
        check_fields(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of sequences in a batch, and the lengths of their inputs and targets."""
        return self.batch_size, *self.lengths

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of a sequence in the encoder, and length in the decoder."""
        return self.inputs_length, self.targets_length

    def allows(self, name: str, value: int | Remat) -> bool:
        """Return whether a setting may have this value."""
        wanted = getattr(self, name)
        return wanted is None or wanted == value
