"""How one model is made of another; what the commands' options are."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Le

from models.config import Positive, RouterInit
from pipelines.validation import Count, check_fields


@dataclasses.dataclass(frozen=True)
class UpcycleConfig:
    """What is made of a dense model.

    Attributes:
        experts: experts of a sparse layer.
        sparse_every: the last of each so many layers gets experts; 1 gives them to all.
        capacity_factor: of the sparse layers, in training. Experts begin equal, and routing takes
            a while to even out.
        router_init: how the routers' kernels are drawn (as in `mswitch train`).
        seed: of the routers, and of the batches that gates are measured on.
        batches: so many batches, of training text for the gates and of validation text for the
            losses before and after.
        batch_size: sequences of such a batch.
    """

    experts: Annotated[int, Ge(1)] = 8
    sparse_every: Count = 2
    capacity_factor: Positive = 2.0
    router_init: RouterInit = "flaxformer"
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    batches: Count = 8
    batch_size: Count = 32

    def __post_init__(self):
        check_fields(self)
