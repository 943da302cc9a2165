"""Prices of Dataflow jobs: what a job will need, and what it costs by a table of unit prices.

dataflow_prices.csv has examples of unit prices, whose source nobody has checked, and assumptions
about workers. They are not offers: users replace them by a file of their own. Each row has the
values for a low and for a high estimate.
"""

import csv
import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Gt

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.own_tables import read_own_table

#: Ways to run a job, which have their own prices.
MODES = ("batch", "flexrs")
_TABLE = "dataflow_prices.csv"
_NUMBERS = ("above", "low", "high")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Limit of the cost of a build.

    Attributes:
        max_cost_usd: USD by Dataflow's meters at which the build stops, saved; by default there is
            no limit.
        prices: a CSV of unit prices in place of mswitch's examples, whose source is not checked.
    """

    max_cost_usd: Annotated[float, Gt(0)] | None = None
    prices: str = ""

    def __post_init__(self):
        check_fields(self)


UNLIMITED = Cost()


@dataclasses.dataclass(frozen=True)
class Phase:
    """Estimated work of one job of a build.

    Attributes:
        cpu_secs: seconds for which one vCPU computes.
        tasks: number of tasks; more workers do not help.
        write_requests: requests to the bucket that write or list.
        read_requests: requests to the bucket that read.
        shuffle_bytes: bytes that Dataflow's shuffle receives, and returns.
    """

    cpu_secs: float
    tasks: int
    write_requests: int
    read_requests: int
    shuffle_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Prices:
    """A table of unit prices and assumptions.

    Attributes:
        rows: by mode and name, rows of: amount above which the row holds, low and high value.
    """

    rows: Mapping[tuple[str, str], list[tuple[float, ...]]]

    def foresee(self, phase: Phase, workers: int, end: int) -> dict[str, float]:
        """Predict a job's resource use, by names of unit prices such as `vcpu_hours`.

        Each of the `workers` has one vCPU. `end` is 0 for a low estimate, 1 for a high one.
        """
        assumed = {name: rows[0][1 + end] for (_, name), rows in self.rows.items()}
        started = min(workers, phase.tasks) * assumed["start_secs"]
        hours = (started + phase.cpu_secs / assumed["busy_share"]) / 3600
        return {
            "vcpu_hours": hours,
            "memory_gb_hours": hours * assumed["memory_gb_per_vcpu"],
            "disk_gb_hours": hours * assumed["disk_gb_per_vcpu"],
            "shuffle_gb": phase.shuffle_bytes / 1e9,
            "write_requests": phase.write_requests,
            "read_requests": phase.read_requests,
        }

    def usd(self, used: Mapping[str, float], mode: str, end: int = 1) -> float:
        """Return the price in USD of the amounts that a job used.

        `used` has amounts by the names of their prices. `mode` is one of `MODES`; `end` is 0 for
        low prices, 1 for high ones.
        """
        total = 0.0
        for name, amount in used.items():
            tiers = [*sorted(self.rows[mode, name]), (math.inf,)]
            for (above, *price), (stop, *_) in itertools.pairwise(tiers):
                total += max(0.0, min(amount, stop) - above) * price[end]
        return total

    def estimate(self, phases: Mapping[str, Phase], workers: int) -> dict[str, dict[str, list]]:
        """Return the lowest and highest amounts and prices (USD) of each phase, and their sums."""
        ranges: dict[str, dict[str, list[float]]] = {}
        for name, phase in phases.items():
            ends = [self.foresee(phase, workers, end) for end in (0, 1)]
            for end, used in enumerate(ends):
                used |= {f"{mode}_usd": self.usd(used, mode, end) for mode in MODES}
            ranges[name] = {key: [used[key] for used in ends] for key in ends[0]}
        parts = [*ranges.values()]
        ranges["all"] = {
            key: [sum(part[key][end] for part in parts) for end in (0, 1)] for key in parts[0]
        }
        return {
            name: {key: [float(f"{value:.4g}") for value in ends] for key, ends in part.items()}
            for name, part in ranges.items()
        }


def read_prices(path: str = "") -> Prices:
    """Read a table of prices; by default the table of this package."""
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    try:
        text = storage.read_bytes(path).decode("utf-8-sig") if path else ""
        for row in csv.DictReader(text.splitlines()) if path else read_own_table(_TABLE):
            numbers = tuple(float(row[name]) for name in _NUMBERS)
            positive = row["name"] == "busy_share"
            if not all(0 <= number < math.inf for number in numbers) or (
                positive and 0 in numbers[1:]
            ):
                raise ValueError(f"{row['name']} cannot be {numbers}")
            for mode in [row["mode"]] if row["mode"] else MODES:
                rows[mode, row["name"]].append(numbers)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--prices {path}: {error}: change a copy of {_TABLE} of mswitch"
        ) from error
    if path and (wrong := rows.keys() ^ read_prices().rows.keys()):
        names = ", ".join(" ".join(pair) for pair in sorted(wrong))
        raise UserError(f"--prices {path}: {names}: give the rows of {_TABLE} of mswitch")
    return Prices(rows)
