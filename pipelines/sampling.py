"""Sampling rates of languages: n ** exponent, as in mT5 (Xue et al. 2020, section 3.2)."""

from collections.abc import Mapping


def power_rates(counts: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Shares proportional to `counts ** exponent`; names without any are left out."""
    weights = {name: float(count) ** exponent for name, count in sorted(counts.items()) if count}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def capped_shares(
    rates: Mapping[str, float], available: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Divide `budget` by `rates`, nobody getting more than is available.

    What a small one cannot take is divided among the others by the same rates.
    """
    open_names = [name for name in rates if available[name] > 0]
    shares: dict[str, int] = {}
    left = budget
    while open_names:
        weight = sum(rates[name] for name in open_names)
        full = [name for name in open_names if available[name] <= left * rates[name] / weight]
        if not full:
            shares.update({name: int(left * rates[name] / weight) for name in open_names})
            break
        for name in full:
            shares[name] = available[name]
        left -= sum(available[name] for name in full)
        open_names = [name for name in open_names if name not in full]
    return dict(sorted(shares.items()))
