"""How one model is made of another; what the commands' options are."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mswitch.models.config import Positive, RouterInit
from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class UpcycleConfig:
    """What is made of a dense model.

    Attributes:
        experts: experts of a sparse layer.
        sparse_every: the last of each so many layers gets experts; 1 gives them to all.
        capacity_factor: capacity factor of the sparse layers in training. Experts begin equal, and
            routing takes a while to even out.
        router_init: how the routers' kernels are drawn (as in `mswitch train`).
        seed: seed of the routers, and of the batches that gates are measured on.
        batches: batches of training text that gates are measured on, and of validation text for the
            losses before and after.
        batch_size: sequences of a batch that gates or losses are measured on.
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


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """What a student learns from its teacher, and what it begins with.

    Attributes:
        soft_weight: share of the loss that is the cross-entropy with the teacher's predictions;
            the rest is that with the targets. 0 trains on targets alone.
        temperature: temperature of both models' predictions in the teacher's share of the loss,
            which is multiplied by its square.
        init: begin with the teacher's parameters, but for routers and experts. The models then
            differ in experts alone.
        gather: what the layers that were sparse begin with: `none`, values drawn as ever, or
            `mean`, the mean of the experts.
    """

    soft_weight: Annotated[float, Ge(0), Le(1)] = 0.25
    temperature: Positive = 1.0
    init: bool = True
    gather: Literal["none", "mean"] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.gather != "none" and not self.init:
            raise UserError(
                f"--gather {self.gather} is of what a student begins with: leave out --no-init"
            )
