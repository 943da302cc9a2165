"""Configurations are checked by their annotations."""

import dataclasses
import math
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Config:
    steps: Count = 1
    share: Annotated[float, Gt(0), Le(1)] | None = None
    rate: Annotated[float, Ge(0), Lt(1)] = 0.0
    free: float = 0.0
    base_optimizer: Literal["adafactor", "adamw"] = "adafactor"

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1 and at most 2,147,483,647, not 0"),
        ({"steps": 2**31}, "--steps must be at least 1 and at most 2,147,483,647, not 2147483648"),
        ({"share": 0.0}, "--share must be above 0 and at most 1, not 0.0"),
        ({"share": 1.01}, "--share must be above 0 and at most 1, not 1.01"),
        ({"rate": 1.0}, "--rate must be at least 0 and below 1, not 1.0"),
        ({"free": math.inf}, "--free must be a finite number, not inf"),
        ({"free": math.nan}, "--free must be a finite number, not nan"),
        ({"base_optimizer": "sgd"}, "--base-optimizer sgd is unknown: choose adafactor or adamw"),
    ],
)
def test_what_is_out_of_bounds_is_named(settings, message):
    with pytest.raises(UserError) as error:
        Config(**settings)
    assert str(error.value) == message


def test_bounds_belong_to_the_range_or_not():
    Config(steps=2**31 - 1, share=1.0, rate=0.0, base_optimizer="adamw")
    Config(share=None, free=-1e300)
