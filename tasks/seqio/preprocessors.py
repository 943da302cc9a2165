"""T5's span corruption as seqio preprocessors (Raffel et al. 2020, section 3.1.4).

For the same stateless seeds, the mask equals t5's `random_spans_noise_mask` bit for bit. For the
same permutations, it equals the one of `mswitch.pipelines.examples.span_corruption`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import SpanCorruption, span_corruption
from mswitch.pipelines.examples.ul2 import UL2, ul2
from mswitch.tasks.seqio.cache import read_lengths_in_use


def _draw_order(items: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw a permutation of `items` numbers from a stateless seed [2] (`stateless_shuffle`)."""
    return tf.argsort(tf.random.stateless_uniform(tf.reshape(items, [1]), seed=seed))


def _compose(total: tf.Tensor, parts: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Cut `total` items at random into `parts` non-empty runs; return the runs' lengths.

    `order` ranks the gaps between items; the first `parts` - 1 are cut.
    """
    starts = tf.concat([[0], tf.cast(order < parts - 1, tf.int32)], axis=0)
    return tf.math.segment_sum(tf.ones([total], tf.int32), tf.cumsum(starts))


def random_spans_noise_mask(
    length: tf.Tensor, seeds: tf.Tensor, noise_density: float, mean_noise_span_length: float
) -> tf.Tensor:
    """Draw a mask of alternating spans: the first is not noise, and the last is noise.

    `length` is a scalar int32, the tokens of the segment. `seeds` [2, 2], int32, are stateless
    seeds of the noise and of the other spans. A `noise_density` of 0 makes an empty mask.

    Returns:
        [length] bool, True for noise tokens.
    """
    if noise_density == 0:
        return tf.zeros([length], tf.bool)
    padded = tf.maximum(length, 2)
    noise = tf.cast(tf.round(tf.cast(padded, tf.float32) * noise_density), tf.int32)
    noise = tf.minimum(tf.maximum(noise, 1), padded - 1)
    spans = tf.round(tf.cast(noise, tf.float32) / mean_noise_span_length)
    spans = tf.minimum(tf.maximum(tf.cast(spans, tf.int32), 1), padded - noise)
    noise_lengths = _compose(noise, spans, _draw_order(noise - 1, seeds[0]))
    other_lengths = _compose(padded - noise, spans, _draw_order(padded - noise - 1, seeds[1]))
    lengths = tf.reshape(tf.stack([other_lengths, noise_lengths], axis=1), [-1])
    return tf.repeat(tf.range(2 * spans) % 2 == 1, lengths)[:length]


def spans_to_sentinels(tokens: tf.Tensor, mask: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
    """Replace each masked run of tokens by one sentinel; sentinels descend from the last id."""
    starts = mask & tf.logical_not(tf.concat([[False], mask[:-1]], axis=0))
    sentinels = vocabulary_size - tf.cumsum(tf.cast(starts, tokens.dtype))
    return tf.boolean_mask(tf.where(starts, sentinels, tokens), starts | tf.logical_not(mask))


def split_tokens(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Cut `targets` losslessly into segments of `length`; only the last may be shorter."""

    def segments(features: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        tokens = features["targets"]
        starts = tf.data.Dataset.range(0, tf.size(tokens, tf.int64), length)
        return starts.map(lambda start: {"targets": tokens[start : start + length]})

    return dataset.flat_map(segments)


def _fit_lengths(sequence_length: Mapping[str, int], lengths: SpanCorruption) -> SpanCorruption:
    """Choose lengths of segments that fill `sequence_length` when corrupted.

    See t5's `random_spans_helper`.
    """
    if isinstance(lengths, UL2):
        fitting = ul2(min(sequence_length["inputs"], lengths.inputs_length))
    else:
        fitting = span_corruption(
            sequence_length["inputs"], lengths.noise_density, lengths.mean_noise_span_length
        )
    if fitting.raw_length >= lengths.raw_length:
        fitting = lengths
    if sequence_length["targets"] < fitting.targets_length:
        raise UserError(
            f"sequence_length of targets is {sequence_length['targets']}: {fitting.raw_length} "
            f"tokens, corrupted, need {fitting.targets_length}"
        )
    return fitting


def choose(kinds: int, seed: tf.Tensor) -> tf.Tensor:
    """Draw the index of one of `kinds` corruptions with a stateless seed of shape [2]."""
    return tf.random.stateless_uniform([], seed, 0, kinds, tf.int32)


def corrupt_spans(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Apply random span corruption to raw segments; leave corrupted examples unchanged.

    Each reading draws new spans. Segments too long for `sequence_length` are cut first, so that
    nothing is lost. An EOS ends inputs and targets; corrupted (validation) examples already have
    one. For UL2, each segment gets one of its denoisers, drawn by a third seed.
    """
    if "inputs" in dataset.element_spec:  # pyright: ignore[reportOperatorIssue]
        return dataset
    lengths = read_lengths_in_use()
    if sequence_length is not None:
        fitting = _fit_lengths(sequence_length, lengths)
        if fitting.raw_length < lengths.raw_length:
            dataset = split_tokens(dataset, fitting.raw_length)
            lengths = fitting
    kinds = lengths.kinds
    vocabulary_size = output_features["targets"].vocabulary.vocab_size

    def corrupt_by_kind(
        kind: SpanCorruption, tokens: tf.Tensor, seeds: tf.Tensor
    ) -> dict[str, Any]:
        mask = random_spans_noise_mask(
            tf.size(tokens), seeds, kind.noise_density, kind.mean_noise_span_length
        )
        mode = [] if (mode := kind.mode_id(vocabulary_size)) is None else [mode]
        inputs = spans_to_sentinels(tokens, mask, vocabulary_size)
        return {
            "inputs": tf.concat([tf.constant(mode, inputs.dtype), inputs], axis=0),
            "targets": spans_to_sentinels(tokens, tf.logical_not(mask), vocabulary_size),
        }

    @seqio.map_over_dataset(num_seeds=2 if len(kinds) == 1 else 3)
    def corrupt(features: Mapping[str, tf.Tensor], seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = features["targets"]
        if len(kinds) == 1:
            return corrupt_by_kind(kinds[0], tokens, seeds)
        branches = [functools.partial(corrupt_by_kind, kind, tokens, seeds[:2]) for kind in kinds]
        return tf.switch_case(choose(len(kinds), seeds[2]), branches)

    return seqio.preprocessors.append_eos_after_trim(
        corrupt(dataset),  # pyright: ignore[reportCallIssue] (seqio supplies the seeds)
        output_features=output_features,
        sequence_length=sequence_length,
    )
