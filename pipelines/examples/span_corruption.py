"""T5's span corruption in NumPy: the mask depends only on a length and on draws.

It has the semantics of t5's `random_spans_helper`, `random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel` and seqio's
`append_eos_after_trim` (T5: Raffel et al. 2020, section 3.1.4). Draws come from a counter-based
generator, so any example of any epoch can be corrupted without the examples before it.

Functions work on any number of segments of one length: [n, length] in, [n, ...] out. Each row
equals the result for a single segment. The number of spans and noise tokens of a segment follows
only from its length, so all rows of a result have the same length.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.special_tokens import EOS_ID, SENTINELS

Tokens = NDArray[np.int32]
Mask = NDArray[np.bool_]
#: Spans depend only on the order of random numbers. Floats in [0, 1) work too, because their bits,
#: read as integers, have the same order.
Draws = NDArray[np.uint32]


class ExampleKey(NamedTuple):
    """Key of an example; the draws of the example depend only on this key.

    Attributes:
        seed: seed of the run.
        stream: a 64-bit number for a language or a document (`hash_stream`).
        number: number of the example in its stream.
        epoch: how often the example was read before.
    """

    seed: int
    stream: int
    number: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Largest lengths of examples.

    Attributes:
        inputs_length: encoder positions, EOS included.
        targets_length: decoder positions, EOS included.
    """

    inputs_length: int
    targets_length: int


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Lengths):
    """Noise parameters, and the resulting lengths for a full segment.

    Attributes:
        raw_length: tokens of a segment before corruption.
        noise_density: share of masked tokens.
        mean_noise_span_length: mean tokens of a masked span.
    """

    raw_length: int
    noise_density: float
    mean_noise_span_length: float

    @functools.cached_property
    def kinds(self) -> "tuple[SpanCorruption, ...]":
        """Kinds of corruption that a segment may get."""
        return (self,)

    def choose(self, key: ExampleKey) -> int:
        """Return the index in `kinds` of the corruption that an example gets."""
        del key
        return 0

    def mode_id(self, vocabulary_size: int) -> int | None:
        """Return the token that precedes the inputs and names their corruption, or None."""
        del vocabulary_size


def _compute_lengths(raw_length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Return the lengths of inputs and targets for `raw_length` tokens, each with an EOS."""
    noise = round(raw_length * noise_density)
    spans = round(noise / mean_span)
    return raw_length - noise + spans + 1, noise + spans + 1


def random_spans_helper(
    inputs_length: int, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> tuple[int, int]:
    """Find the longest segment whose corrupted inputs fit `inputs_length` (t5, same name).

    Return (tokens of a segment, length of its targets).
    """
    raw_length = inputs_length - 1
    while (
        _compute_lengths(raw_length + 1, noise_density, mean_noise_span_length)[0] <= inputs_length
    ):
        raw_length += 1
    fitted, targets_length = _compute_lengths(raw_length, noise_density, mean_noise_span_length)
    if noise_density == 0.5 and targets_length > fitted:
        raw_length, targets_length = raw_length - 1, targets_length - 1
    return raw_length, targets_length


def span_corruption(
    inputs_length: int, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> SpanCorruption:
    """Check the noise parameters and derive the lengths for a full segment.

    The lengths equal those of `random_spans_helper`, unless t5 would cut the end of some segments.
    It does so because very short segments still get a span, or the helper rounds in float64 and
    the mask in float32 (390 tokens for 352 inputs). Then targets are longer, or segments shorter.
    """
    if inputs_length < 8:
        raise UserError(f"inputs_length is {inputs_length}: give at least 8")
    if not 0 < noise_density < 1:
        raise UserError(f"noise_density is {noise_density}: give a share between 0 and 1")
    if not 1 <= mean_noise_span_length < float("inf"):
        raise UserError(f"mean_noise_span_length is {mean_noise_span_length}: give at least 1")
    raw, targets = random_spans_helper(inputs_length, noise_density, mean_noise_span_length)
    counts = [
        count_noise(length, noise_density, mean_noise_span_length) for length in range(2, raw + 1)
    ]
    while raw - counts[-1][0] + counts[-1][1] + 1 > inputs_length:
        counts.pop()
        raw -= 1
    spans = max(spans for _, spans in counts)
    if spans > SENTINELS:
        raise UserError(
            f"inputs_length {inputs_length} needs {spans} spans per segment, more than the "
            f"{SENTINELS} sentinels: lower it or raise mean_noise_span_length"
        )
    targets = max(targets, *(noise + spans + 1 for noise, spans in counts))
    return SpanCorruption(inputs_length, targets, raw, noise_density, mean_noise_span_length)


def count_noise(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of noise tokens and spans for `length` >= 2 (in float32, like TensorFlow).

    If the density leaves too few other tokens to separate the spans (t5's mask is malformed then),
    there are fewer spans.
    """
    density, mean = np.float32(noise_density), np.float32(mean_span)
    noise = int(np.round(np.float32(length) * density))
    noise = min(max(noise, 1), length - 1)
    spans = max(int(np.round(np.float32(noise) / mean)), 1)
    return noise, min(spans, length - noise)


def count_draws(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of random draws for the lengths of masked and of unmasked spans."""
    length = max(length, 2)
    noise, _ = count_noise(length, noise_density, mean_span)
    return noise - 1, length - noise - 1


def _compose(gap_draws: Draws, parts: int) -> NDArray[np.intp]:
    """Split each of n sequences into `parts` spans at random gaps, by `gap_draws` [n, gaps].

    Return the positive lengths of the spans [n, parts]. A gap is a place between two tokens, so a
    sequence has `gaps + 1` tokens.

    t5 sorts the gaps by their draws. It cuts at the places in that order that have one of the first
    `parts - 1` gaps. Here, draw and number of a gap form one sorting key. This orders equal draws
    like a stable sort, and needs a tenth of the time of an indirect sort.
    """
    rows, gaps = gap_draws.shape
    keys = gap_draws.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(gaps, dtype=np.uint64)
    keys.sort(axis=-1)
    # The low 32 bits of a key are the number of a gap between two tokens.
    order = keys.astype(np.uint32)
    cuts = np.flatnonzero(order < parts - 1).reshape(rows, parts - 1)
    ends = np.empty((rows, parts + 1), np.intp)
    ends[:, 0], ends[:, -1] = 0, gaps + 1
    ends[:, 1:-1] = cuts - (gaps * np.arange(rows)[:, None] - 1)
    return np.diff(ends)


def random_spans_noise_mask(
    length: int,
    noise_density: float,
    mean_span: float,
    noise_draws: Draws,
    other_draws: Draws,
) -> Mask:
    """Return noise masks for random draws, like t5's `random_spans_noise_mask`.

    Args:
        length: tokens of a segment, >= 1.
        noise_density: share of noise tokens; 0 gives empty masks.
        mean_span: mean length of a noise span.
        noise_draws: [n, noise - 1], one for each gap between noise tokens.
        other_draws: [n, length - noise - 1], one for each gap between the other tokens.

    Returns:
        [n, length], True for noise tokens. Spans alternate, and the first is not noise.
    """
    rows = noise_draws.shape[0]
    if noise_density == 0:
        return np.zeros((rows, length), np.bool_)
    padded = max(length, 2)
    _, spans = count_noise(padded, noise_density, mean_span)
    lengths = np.empty((rows, spans, 2), np.intp)
    lengths[..., 0] = _compose(other_draws, spans)
    lengths[..., 1] = _compose(noise_draws, spans)
    alternating = np.tile([False, True], rows * spans)
    return np.repeat(alternating, lengths.ravel()).reshape(rows, padded)[:, :length]


def spans_to_sentinels(tokens: Tokens, mask: Mask, vocabulary_size: int) -> Tokens:
    """Replace each run of True in `mask` by a sentinel, descending from the last id.

    Args:
        tokens: [n, length].
        mask: [n, length], with equal numbers of runs and of True in each row.
        vocabulary_size: number of all ids, including sentinels.

    Returns:
        [n, length - True + runs].
    """
    rows = tokens.shape[0]
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    places = np.flatnonzero(starts)
    runs = places.size // rows
    marked = tokens.copy()
    marked.reshape(-1)[places] = np.tile(vocabulary_size - 1 - np.arange(runs), rows)
    return marked[starts | ~mask].reshape(rows, -1)


def append_eos_after_trim(tokens: Tokens, length: int) -> Tokens:
    """Cut rows to `length - 1` tokens and append EOS (seqio, same name)."""
    kept = min(tokens.shape[1], length - 1)
    ended = np.empty((tokens.shape[0], kept + 1), np.int32)
    ended[:, :kept] = tokens[:, :kept]
    ended[:, kept] = EOS_ID
    return ended


def corrupt(
    tokens: Tokens, mask: Mask, vocabulary_size: int, lengths: SpanCorruption
) -> tuple[Tokens, Tokens]:
    """Split segments [n, length] into `inputs` and `targets`, with sentinels and a last EOS."""
    spans = spans_to_sentinels(tokens, mask, vocabulary_size)
    inputs = append_eos_after_trim(spans, lengths.inputs_length)
    if (mode := lengths.mode_id(vocabulary_size)) is not None:
        inputs = np.insert(inputs, 0, mode, axis=1)
    targets = spans_to_sentinels(tokens, ~mask, vocabulary_size)
    return inputs, append_eos_after_trim(targets, lengths.targets_length)


def hash_stream(name: str) -> int:
    """Return a stable 64-bit number for a name (a language code, a document's id)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def make_philox(counter: Sequence[int], key: Sequence[int]) -> np.random.Philox:
    """Return a Philox4x64-10 generator for a key of two words and a counter of four words.

    The counter's lowest word is first. The first output is for the counter plus 1.
    The arrays are explicit, since NumPy makes floats of lists with a number over 2 ** 63.
    """
    return np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(key, np.uint64))


def draw(key: ExampleKey, count: int) -> Draws:
    """Return `count` uniform draws, which depend only on `key`.

    They are the halves, low half first, of Philox4x64-10's words for the 128-bit key (seed, stream)
    and the 256-bit counter (0, 0, number, epoch), lowest word first. Philox increments the lowest
    word, so each example has its own sequence.
    """
    generator = make_philox([0, 0, key.number, key.epoch], [key.seed, key.stream])
    words: NDArray[np.uint64] = generator.random_raw((count + 1) // 2)
    return words.astype("<u8", copy=False).view("<u4")[:count]


def draw_masks(length: int, lengths: SpanCorruption, keys: Sequence[ExampleKey]) -> Mask:
    """Return n independent masks [n, length] for n examples of the same length."""
    density, mean = lengths.noise_density, lengths.mean_noise_span_length
    noise, other = count_draws(length, density, mean)
    drawn = np.empty((len(keys), noise + other), np.uint32)
    for row, key in zip(drawn, keys, strict=True):
        row[:] = draw(key, noise + other)
    return random_spans_noise_mask(length, density, mean, drawn[:, :noise], drawn[:, noise:])
