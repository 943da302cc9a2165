"""Examples become the rows of a batch: corrupted, padded, and packed where a run asks for it.

Names of features are those of T5X and of seqio's `EncDecFeatureConverter`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examples.span_corruption import (
    ExampleKey,
    Lengths,
    SpanCorruption,
    Tokens,
    corrupt,
    random_masks,
)
from pipelines.special_tokens import PAD_ID

Batch = dict[str, NDArray[Any]]
#: One corrupted example before padding: inputs, targets, language number.
Example = tuple[Tokens, Tokens, int]
#: One training segment before corruption: tokens, what its draws belong to, language number.
Segment = tuple[Tokens, ExampleKey, int]

PADDING_LANGUAGE = -1


def _blank(rows: int, lengths: Lengths) -> Batch:
    return {
        "encoder_input_tokens": np.full((rows, lengths.inputs_length), PAD_ID, np.int32),
        "decoder_input_tokens": np.full((rows, lengths.targets_length), PAD_ID, np.int32),
        "decoder_target_tokens": np.full((rows, lengths.targets_length), PAD_ID, np.int32),
        "decoder_loss_weights": np.zeros((rows, lengths.targets_length), np.float32),
        "language": np.full(rows, PADDING_LANGUAGE, np.int32),
    }


def _fill(
    batch: Batch, places: Sequence[int] | slice, inputs: Tokens, targets: Tokens, language: object
) -> None:
    """Put examples of equal lengths, [n, ...], into rows of a blank batch."""
    size, longest = targets.shape[1], batch["decoder_target_tokens"].shape[1]
    batch["encoder_input_tokens"][places, : inputs.shape[1]] = inputs
    batch["decoder_target_tokens"][places, :size] = targets
    batch["decoder_input_tokens"][places, 1 : size + 1] = targets[:, : longest - 1]
    batch["decoder_loss_weights"][places, :size] = 1
    batch["language"][places] = language


def collate(examples: Sequence[Example], rows: int, lengths: Lengths) -> Batch:
    """Pad examples to a batch of `rows`; rows beyond the examples have weight 0.

    Returns:
        The features that models take (int32 `encoder_input_tokens` [rows, inputs_length],
        `decoder_input_tokens` and `decoder_target_tokens` [rows, targets_length], float32
        `decoder_loss_weights` [rows, targets_length], int32 `language` [rows]).
    """
    batch = _blank(rows, lengths)
    for row, (inputs, targets, number) in enumerate(examples):
        _fill(batch, slice(row, row + 1), inputs[None], targets[None], number)
    return batch


def corrupt_segments(
    segments: Sequence[Segment], vocabulary_size: int, lengths: SpanCorruption
) -> Batch:
    """Corrupt training segments and pad them to a batch, all segments of one length at a time."""
    batch = _blank(len(segments), lengths)
    by_length: dict[int, list[int]] = {}
    for row, (tokens, _, _) in enumerate(segments):
        by_length.setdefault(tokens.size, []).append(row)
    for length, rows in by_length.items():
        tokens = np.stack([segments[row][0] for row in rows])
        masks = random_masks(length, lengths, [segments[row][1] for row in rows])
        inputs, targets = corrupt(tokens, masks, vocabulary_size, lengths)
        _fill(batch, rows, inputs, targets, [segments[row][2] for row in rows])
    return batch


def pack_rows(batch: Batch, pack: int) -> Batch:
    """Put every `pack` rows of a padded batch into one, end to end, their padding behind them.

    Decoder inputs begin with 0 in each example, as they did when it had its own row.

    Args:
        batch: [n, ...], with n a multiple of `pack`.
        pack: examples of a row.

    Returns:
        The same features [n / pack, pack * length]; `language` [n / pack, pack]; and int32
        `encoder_segment_ids`, `encoder_positions`, `decoder_segment_ids`, `decoder_positions`:
        which example of its row a token belongs to, from 1 (0 is padding), and its place in it.
    """
    packed: Batch = {"language": batch["language"].reshape(-1, pack)}
    inputs, weights = batch["encoder_input_tokens"], batch["decoder_loss_weights"]
    # An example ends with an EOS, so what follows its last token is padding, and nothing else is.
    real = np.logical_or.accumulate(inputs[:, ::-1] != PAD_ID, axis=1)[:, ::-1]
    for side, kept in (("encoder", real), ("decoder", weights > 0)):
        examples, length = kept.shape
        segments = np.arange(examples, dtype=np.int32) % pack + 1
        features = {name: values for name, values in batch.items() if name.startswith(side)}
        features[f"{side}_segment_ids"] = np.broadcast_to(segments[:, None], kept.shape)
        features[f"{side}_positions"] = np.broadcast_to(
            np.arange(length, dtype=np.int32), kept.shape
        )
        used = kept.reshape(-1, pack * length).sum(axis=1)
        filled = np.arange(pack * length) < used[:, None]
        for name, values in features.items():
            packed[name] = np.zeros(filled.shape, values.dtype)
            packed[name][filled] = values[kept]
    return packed
