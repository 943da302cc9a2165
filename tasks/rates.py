"""How often each language is trained on: rates proportional to n ** (1 / temperature).

mT5 (Xue et al. 2020, section 3.2) calls 0.3 its alpha and counts pages; here n counts training
segments, which are equally long, so a language's share of tokens follows its rate as well.
"""

from collections.abc import Mapping

from pipelines.sampling import power_rates

ALPHA = 0.3
#: What `seqio.mixing_rate_num_examples` calls temperature.
TEMPERATURE = 1 / ALPHA


def sampling_rates(
    records: Mapping[str, int], temperature: float = TEMPERATURE
) -> dict[str, float]:
    """Normalised rates by language, sorted by code; languages without records are left out."""
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: it must be positive")
    return power_rates(records, 1 / temperature)
