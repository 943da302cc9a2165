"""A bound on a step's time from a device's peak rates. An estimate: nothing was run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource would be busy at its peak rate.

    Attributes:
        compute_secs: matrix products at the bfloat16 peak, those in several passes as often.
        memory_secs: what instructions read and write in HBM.
        network_secs: what a device sends, with all its links in use.
    """

    compute_secs: float
    memory_secs: float
    network_secs: float

    @property
    def step_secs(self) -> float:
        """The longest of the three: as if they overlapped perfectly, so a step takes longer."""
        return max(self.compute_secs, self.memory_secs, self.network_secs)


def roofline(costs: Mapping[str, Any], chip: Chip) -> Roofline:
    """The bound for a program's costs (`models.planning.costs.Costs` as a dictionary)."""
    sent = sum(collective["bytes"] for collective in costs["collectives"].values())
    return Roofline(
        costs["bfloat16_flops"] / chip.flops_per_sec,
        costs["memory_bytes"] / chip.hbm_bytes_per_sec,
        sent / chip.link_bytes_per_sec,
    )
