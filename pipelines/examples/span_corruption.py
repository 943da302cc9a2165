"""T5's span corruption in NumPy: the mask is a pure function of a length and of draws.

Semantics are those of t5's `random_spans_helper`, `random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel` and seqio's
`append_eos_after_trim` (T5: Raffel et al. 2020, section 3.1.4). Draws come from a counter-based
generator, so that any example of any epoch is corrupted without knowing those before it.
"""

import dataclasses
import hashlib

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
SENTINELS = 100

Tokens = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Noise parameters with the lengths that follow from them.

    Attributes:
        inputs_length: encoder positions, EOS included.
        targets_length: decoder positions a full segment needs, EOS included.
        raw_length: tokens of a segment before corruption.
        noise_density: share of tokens that are masked.
        mean_noise_span_length: mean tokens of a masked span.
    """

    inputs_length: int
    targets_length: int
    raw_length: int
    noise_density: float
    mean_noise_span_length: float


def _lengths(raw_length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Inputs and targets that `raw_length` tokens become, an EOS in each."""
    noise = round(raw_length * noise_density)
    spans = round(noise / mean_span)
    return raw_length - noise + spans + 1, noise + spans + 1


def random_spans_helper(
    inputs_length: int, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> tuple[int, int]:
    """Find the longest segment whose corrupted inputs fit `inputs_length` (t5, same name).

    Returns:
        (tokens of a segment, length of its targets).
    """
    raw_length = inputs_length - 1
    while _lengths(raw_length + 1, noise_density, mean_noise_span_length)[0] <= inputs_length:
        raw_length += 1
    fitted, targets_length = _lengths(raw_length, noise_density, mean_noise_span_length)
    if noise_density == 0.5 and targets_length > fitted:
        raw_length, targets_length = raw_length - 1, targets_length - 1
    return raw_length, targets_length


def span_corruption(
    inputs_length: int, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> SpanCorruption:
    """Check the parameters and derive the lengths.

    The lengths are those of `random_spans_helper`, except where t5 would cut the end of some
    segment, because very short ones still get a span or because the helper rounds in float64 and
    the mask in float32 (390 tokens for 352 inputs): there, targets are longer or segments shorter.

    Raises:
        UserError: a parameter is out of range, or a segment would need more than 100 sentinels
            (t5 would silently use up ordinary pieces).
    """
    if inputs_length < 8:
        raise UserError(f"inputs_length is {inputs_length}: give at least 8")
    if not 0 < noise_density < 1:
        raise UserError(f"noise_density is {noise_density}: give a share between 0 and 1")
    if mean_noise_span_length < 1:
        raise UserError(f"mean_noise_span_length is {mean_noise_span_length}: give at least 1")
    raw, targets = random_spans_helper(inputs_length, noise_density, mean_noise_span_length)
    counts = [
        noise_counts(length, noise_density, mean_noise_span_length) for length in range(2, raw + 1)
    ]
    while raw - counts[-1][0] + counts[-1][1] + 1 > inputs_length:
        counts.pop()
        raw -= 1
    spans = max(spans for _, spans in counts)
    if spans > SENTINELS:
        raise UserError(
            f"inputs_length {inputs_length} needs {spans} spans a segment, more than the "
            f"{SENTINELS} sentinels: shorten it or raise mean_noise_span_length"
        )
    targets = max(targets, *(noise + spans + 1 for noise, spans in counts))
    return SpanCorruption(inputs_length, targets, raw, noise_density, mean_noise_span_length)


def noise_counts(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Noise tokens and noise spans of a segment of `length` >= 2 (float32, as TensorFlow).

    Where density is so high that too few other tokens are left to separate the spans (t5's mask
    is malformed then), there are fewer spans.
    """
    density, mean = np.float32(noise_density), np.float32(mean_span)
    noise = int(np.round(np.float32(length) * density))
    noise = min(max(noise, 1), length - 1)
    spans = max(int(np.round(np.float32(noise) / mean)), 1)
    return noise, min(spans, length - noise)


def draws_needed(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """How many draws the noise and the non-noise composition of a mask take."""
    length = max(length, 2)
    noise, _ = noise_counts(length, noise_density, mean_span)
    return noise - 1, length - noise - 1


def _composition(total: int, parts: int, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Cut `total` items into `parts` positive lengths; `order` permutes the `total - 1` gaps."""
    starts = np.flatnonzero(order < parts - 1) + 1
    return np.diff(starts, prepend=0, append=total)


def noise_mask_from_orders(
    length: int,
    noise_density: float,
    mean_span: float,
    noise_order: NDArray[np.intp],
    other_order: NDArray[np.intp],
) -> Mask:
    """The mask that two permutations of gaps give (t5 `random_spans_noise_mask`).

    Args:
        length: tokens of the segment, >= 1.
        noise_density: share of noise tokens; 0 gives an empty mask.
        mean_span: mean length of a noise span.
        noise_order: a permutation of `noise - 1` gaps between noise tokens.
        other_order: a permutation of the `length - noise - 1` gaps between the others.

    Returns:
        [length], True where a token is noise. Spans alternate and the first is not noise.
    """
    if noise_density == 0:
        return np.zeros(length, np.bool_)
    padded = max(length, 2)
    noise, spans = noise_counts(padded, noise_density, mean_span)
    lengths = np.empty(2 * spans, np.intp)
    lengths[0::2] = _composition(padded - noise, spans, other_order)
    lengths[1::2] = _composition(noise, spans, noise_order)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)[:length]


def random_spans_noise_mask(
    length: int,
    noise_density: float,
    mean_span: float,
    noise_draws: NDArray[np.float64],
    other_draws: NDArray[np.float64],
) -> Mask:
    """The mask that uniform draws give; `draws_needed` says how many."""
    return noise_mask_from_orders(
        length,
        noise_density,
        mean_span,
        np.argsort(noise_draws, kind="stable"),
        np.argsort(other_draws, kind="stable"),
    )


def spans_to_sentinels(tokens: Tokens, mask: Mask, vocabulary_size: int) -> Tokens:
    """Replace every run of True by one sentinel: the last id, then descending."""
    starts = mask.copy()
    starts[1:] &= ~mask[:-1]
    sentinels = vocabulary_size - np.cumsum(starts, dtype=np.int32)
    keep = starts | ~mask
    return np.where(starts, sentinels, tokens)[keep].astype(np.int32, copy=False)


def append_eos_after_trim(tokens: Tokens, length: int) -> Tokens:
    """Cut to `length - 1` tokens and append EOS (seqio, same name)."""
    return np.append(tokens[: length - 1], np.int32(EOS_ID))


def corrupt(
    tokens: Tokens, mask: Mask, vocabulary_size: int, lengths: SpanCorruption
) -> tuple[Tokens, Tokens]:
    """Split a segment into `inputs` and `targets`, sentinels in both, an EOS at each end."""
    inputs = spans_to_sentinels(tokens, mask, vocabulary_size)
    targets = spans_to_sentinels(tokens, ~mask, vocabulary_size)
    return (
        append_eos_after_trim(inputs, lengths.inputs_length),
        append_eos_after_trim(targets, lengths.targets_length),
    )


def restore(inputs: Tokens, targets: Tokens, vocabulary_size: int) -> Tokens:
    """Put corrupted `inputs` and `targets` (untrimmed, with EOS) together again."""
    lowest = vocabulary_size - SENTINELS
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in targets[:-1].tolist():
        if token >= lowest:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    whole: list[int] = []
    for token in inputs[:-1].tolist():
        whole.extend(spans[token] if token >= lowest else [token])
    return np.array(whole, np.int32)


def stream_key(name: str) -> int:
    """A stable 64-bit number for a name (a language code, a document's id)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def draws(seed: int, stream: int, index: int, epoch: int, count: int) -> NDArray[np.float64]:
    """`count` uniform draws that belong to (seed, stream, index, epoch) and to nothing else.

    Philox counts its first word up; the others place each example in a sequence of its own.
    """
    generator = np.random.Philox(counter=[0, 0, index, epoch], key=[seed, stream])
    return np.random.Generator(generator).random(count)


def random_mask(
    length: int, lengths: SpanCorruption, *, seed: int, stream: int, index: int, epoch: int
) -> Mask:
    """The mask of one example of one epoch."""
    density, mean = lengths.noise_density, lengths.mean_noise_span_length
    noise, other = draws_needed(length, density, mean)
    uniform = draws(seed, stream, index, epoch, noise + other)
    return random_spans_noise_mask(length, density, mean, uniform[:noise], uniform[noise:])
