"""What configurations check of their values, with the option's name in the message."""

import dataclasses
import math
from typing import Any, get_args

from pipelines.errors import UserError

#: What 32 bits count to.
MOST = 2**31 - 1


def check_counts(config: Any, *names: str) -> None:
    """Check attributes that count something.

    Raises:
        UserError: one is below 1, or more than a device counts in 32 bits.
    """
    for name in names:
        if not 1 <= getattr(config, name) <= MOST:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least 1 and at most {MOST:,}")


def check_finite(config: Any) -> None:
    """Check attributes that are numbers.

    Raises:
        UserError: one is infinite or NaN.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"--{field.name.replace('_', '-')} must be a finite number, not {value}"
            )


def check_one_of(config: Any, name: str, choices: Any) -> None:
    """Check an attribute against the values of a `Literal`.

    Raises:
        UserError: it has another.
    """
    value, known = getattr(config, name), get_args(choices)
    if value not in known:
        option = name.replace("_", "-")
        raise UserError(f"--{option} {value} is unknown: choose {' or '.join(known)}")
