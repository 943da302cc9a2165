"""Which parameters a training leaves as they are, by the group that they are in."""

from mswitch.models.config import Freeze


def is_frozen(name: str, freeze: Freeze) -> bool:
    """Whether `--freeze` leaves a parameter untouched: those of experts, or all others."""
    return freeze != "none" and (group_of(name) == "experts") == (freeze == "experts")


def group_of(name: str) -> str:
    """The group of a parameter: embedding, logits, attention, experts and so on."""
    parts = name.split(".")
    if parts[0] in ("embedding", "logits"):
        return parts[0]
    if "router" in parts:
        return "routers"
    if "switch" in parts:
        return "experts"
    if any(part.endswith("norm") for part in parts):
        return "norms"
    if "feed_forward" in parts:
        return "feed_forward"
    return "attention"
