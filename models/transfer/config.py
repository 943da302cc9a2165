"""Settings for making one model from another, which are options of the commands."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mswitch.models.config import Positive, RouterInit
from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class UpcycleConfig:
    """The sparse model to make from a dense one.

    Attributes:
        experts: experts of a sparse layer.
        sparse_every: the last of each `sparse_every` layers gets experts; 1 gives them to all.
        capacity_factor: capacity factor of the sparse layers in training. Experts begin equal, and
            routing takes a while to even out.
        router_init: initialisation of the routers' kernels (as in `mswitch train`).
        seed: seed of the routers, and of the batches on which gates are measured.
        batches: batches of training text for measuring gates, and of validation text for the
            losses before and after.
        batch_size: sequences of a batch for measuring gates or losses.
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
    """A student's loss and its initial parameters.

    Attributes:
        soft_weight: share of the loss that is the cross-entropy with the teacher's predictions;
            the rest is the cross-entropy with the targets. 0 trains only on targets.
        temperature: temperature of both models' predictions in the teacher's share of the loss,
            which is multiplied by its square.
        init: begin with the teacher's parameters, except routers and experts. The models must then
            differ only in experts.
        gather: initial values of the student's layers that are sparse in the teacher: `none` draws
            them as usual; `mean` is the mean of the experts.
    """

    soft_weight: Annotated[float, Ge(0), Le(1)] = 0.25
    temperature: Positive = 1.0
    init: bool = True
    gather: Literal["none", "mean"] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.gather != "none" and not self.init:
            raise UserError(
                f"--gather {self.gather} needs a student that begins with its teacher's "
                "parameters: leave out --no-init"
            )
