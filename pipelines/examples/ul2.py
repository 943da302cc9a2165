"""UL2's mixture of denoisers (Tay et al. 2022, table 1); each training segment gets one denoiser.

A mode token before the inputs names the kind of denoising (`MODES`): one of the last sentinels,
which spans cannot use then.
"""

import dataclasses
import functools

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    SpanCorruption,
    count_noise,
    make_philox,
    span_corruption,
)
from mswitch.pipelines.special_tokens import SENTINELS

#: Numbers of the modes' sentinels: regular (few short spans), extreme (long spans, or half of all
#: tokens) and sequential denoising (one span, at the end).
MODES = {"R": SENTINELS - 3, "X": SENTINELS - 2, "S": SENTINELS - 1}
MOST_SPANS = min(MODES.values())
#: All denoisers, equally likely: mode, mean span length (0: a single span), share of masked tokens.
DENOISERS = (
    ("R", 3.0, 0.15),
    ("R", 8.0, 0.15),
    ("S", 0.0, 0.25),
    ("X", 3.0, 0.5),
    ("X", 8.0, 0.5),
    ("X", 64.0, 0.15),
    ("X", 64.0, 0.5),
)
#: Names of the denoisers, such as "R 3 15%".
NAMES = tuple(f"{mode} {mean:g} {density:.0%}" for mode, mean, density in DENOISERS)


@dataclasses.dataclass(frozen=True)
class Denoiser(SpanCorruption):
    """A denoiser of the mixture.

    Attributes:
        sentinel: number of its mode token's sentinel.
    """

    sentinel: int

    def mode_id(self, vocabulary_size: int) -> int:
        """Return the id of the denoiser's mode token."""
        return vocabulary_size - 1 - self.sentinel


@dataclasses.dataclass(frozen=True)
class UL2(SpanCorruption):
    """UL2's mixture of denoisers; inherited attributes describe the first one, T5's denoiser.

    Every denoiser gets segments of `raw_length`, the longest that fits for all. So the denoiser of
    a segment can be drawn each time that it is read.
    """

    @functools.cached_property
    def kinds(self) -> tuple[Denoiser, ...]:
        """The denoisers, in the order of `DENOISERS`."""
        return tuple(
            _make_denoiser(self.raw_length, self.inputs_length, *denoiser) for denoiser in DENOISERS
        )

    def choose(self, key: ExampleKey) -> int:
        """Return the index of a random denoiser for an example.

        The counter of Philox is (0, 1, number, epoch); the counters of masks have 0 instead of 1.
        """
        generator = make_philox([0, 1, key.number, key.epoch], [key.seed, key.stream])
        return int(generator.random_raw()) * len(DENOISERS) >> 64


def ul2(inputs_length: int) -> UL2:
    """Derive lengths of segments and targets that fit all denoisers."""
    regular = span_corruption(inputs_length - 1, DENOISERS[0][2], DENOISERS[0][1])
    raw_length = regular.raw_length
    while any(
        _find_longest(raw_length, mean, density)[0] + 2 > inputs_length
        for _, mean, density in DENOISERS
    ):
        raw_length -= 1
    kinds = [_make_denoiser(raw_length, inputs_length, *denoiser) for denoiser in DENOISERS]
    spans = max(_find_longest(raw_length, mean, density)[2] for _, mean, density in DENOISERS)
    if spans > MOST_SPANS:
        raise UserError(
            f"objective ul2 with inputs_length {inputs_length} needs {spans} spans per segment, "
            f"more than the {MOST_SPANS} sentinels without its modes: give at most 528"
        )
    return UL2(
        inputs_length,
        max(kind.targets_length for kind in kinds),
        raw_length,
        regular.noise_density,
        regular.mean_noise_span_length,
    )


def _find_longest(raw_length: int, mean: float, density: float) -> tuple[int, int, int]:
    """Return the maximum number of input tokens, of target tokens and of spans per segment.

    Segments have up to `raw_length` tokens. Mode and EOS are not counted.
    """
    counts = [
        (length, *count_noise(length, density, mean or length))
        for length in range(2, raw_length + 1)
    ]
    inputs = max(length - noise + spans for length, noise, spans in counts)
    targets = max(noise + spans for _, noise, spans in counts)
    return inputs, targets, max(spans for *_, spans in counts)


def _make_denoiser(
    raw_length: int, inputs_length: int, mode: str, mean: float, density: float
) -> Denoiser:
    _, targets, _ = _find_longest(raw_length, mean, density)
    return Denoiser(
        # The mode token takes a position of the inputs.
        inputs_length - 1,
        targets + 1,
        raw_length,
        density,
        mean or float(raw_length),
        MODES[mode],
    )
