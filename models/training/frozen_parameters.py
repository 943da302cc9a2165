"""Groups of parameters, and which of them a training freezes."""

from mswitch.models.config import Freeze


def is_frozen(name: str, freeze: Freeze) -> bool:
    """Return whether `--freeze` keeps a parameter unchanged.

    The option freezes the experts' parameters, all others, or none.
    """
    return freeze != "none" and (find_group(name) == "experts") == (freeze == "experts")


def find_group(name: str) -> str:
    """Return the group of a parameter: embedding, logits, attention, experts and so on."""
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
