"""Turn examples into the rows of a batch: corrupted, padded and, if a run requests it, packed.

Features have the names of T5X and of seqio's `EncDecFeatureConverter`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    Lengths,
    SpanCorruption,
    Tokens,
    corrupt,
    draw_masks,
)
from mswitch.pipelines.special_tokens import PAD_ID

Batch = dict[str, NDArray[Any]]
#: One corrupted example before padding: inputs, targets, language number.
Example = tuple[Tokens, Tokens, int]
#: One training segment before corruption: tokens, the key of its random draws, language number.
Segment = tuple[Tokens, ExampleKey, int]

PADDING_LANGUAGE = -1


def make_blank(rows: int, lengths: Lengths) -> Batch:
    """Make a batch of padding.

    Returns:
        The features of a model (int32 `encoder_input_tokens` [rows, inputs_length],
        `decoder_input_tokens` and `decoder_target_tokens` [rows, targets_length], float32
        `decoder_loss_weights` [rows, targets_length], int32 `language` [rows]).
    """
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
    size, longest = targets.shape[1], batch["decoder_target_tokens"].shape[1]
    batch["encoder_input_tokens"][places, : inputs.shape[1]] = inputs
    batch["decoder_target_tokens"][places, :size] = targets
    batch["decoder_input_tokens"][places, 1 : size + 1] = targets[:, : longest - 1]
    batch["decoder_loss_weights"][places, :size] = 1
    batch["language"][places] = language


def put_examples(batch: Batch, rows: Iterable[int], examples: Iterable[Example]) -> None:
    """Put one example into each of the given rows of a blank batch."""
    for row, (inputs, targets, number) in zip(rows, examples, strict=True):
        _fill(batch, slice(row, row + 1), inputs[None], targets[None], number)


def put_segments(
    batch: Batch,
    rows: Sequence[int],
    segments: Sequence[Segment],
    vocabulary_size: int,
    noise: SpanCorruption,
) -> None:
    """Corrupt training segments, and put one into each of the given rows of a batch.

    Segments of equal length and denoiser are corrupted together.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for number, (tokens, key, _) in enumerate(segments):
        alike.setdefault((tokens.size, noise.choose(key)), []).append(number)
    for (length, choice), numbers in alike.items():
        tokens, keys, languages = zip(*(segments[n] for n in numbers), strict=True)
        kind = noise.kinds[choice]
        masks = draw_masks(length, kind, keys)
        inputs, targets = corrupt(np.stack(tokens), masks, vocabulary_size, kind)
        _fill(batch, [rows[n] for n in numbers], inputs, targets, languages)


def collate(examples: Sequence[Example], rows: int, lengths: Lengths) -> Batch:
    """Pad examples to a batch of `rows`; rows beyond the examples have weight 0."""
    batch = make_blank(rows, lengths)
    put_examples(batch, range(len(examples)), examples)
    return batch


def pack_rows(batch: Batch, pack: int) -> Batch:
    """Join every `pack` rows of a padded batch into one, with all padding at the end.

    Decoder inputs begin with 0 in each example, as in unpacked rows. `batch` is [n, ...], with n a
    multiple of `pack`.

    Returns:
        The same features [n / pack, pack * length]; `language` [n / pack, pack]; and int32
        `encoder_segment_ids`, `encoder_positions`, `decoder_segment_ids`, `decoder_positions`: the
        number of a token's example in its row, from 1 (0 is padding), and its place in the example.
    """
    rows, longest = len(batch["language"]) // pack, batch["decoder_target_tokens"].shape[1]
    room = Lengths(pack * batch["encoder_input_tokens"].shape[1], pack * longest)
    packed = pack_into(batch, [pack] * rows, room)
    return {**packed, "language": batch["language"].reshape(rows, pack)}


def pack_into(batch: Batch, counts: Sequence[int], room: Lengths) -> Batch:
    """Join rows of a padded batch: row i of the result holds the batch's next `counts[i]` rows.

    Returns:
        The features of `pack_rows`, in rows as long as the room; `language` is that of a row's
        first example.
    """
    number = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    firsts = np.flatnonzero(number == 0)
    packed: Batch = {"language": batch["language"][firsts]}
    inputs, weights = batch["encoder_input_tokens"], batch["decoder_loss_weights"]
    # An example ends with an EOS, so exactly the positions after its last token are padding.
    real = np.logical_or.accumulate(inputs[:, ::-1] != PAD_ID, axis=1)[:, ::-1]
    sides = (("encoder", real, room.inputs_length), ("decoder", weights > 0, room.targets_length))
    for side, kept, length in sides:
        features = {name: values for name, values in batch.items() if name.startswith(side)}
        features[f"{side}_segment_ids"] = np.broadcast_to(number[:, None] + 1, kept.shape)
        features[f"{side}_positions"] = np.broadcast_to(
            np.arange(kept.shape[1], dtype=np.int32), kept.shape
        )
        used = np.add.reduceat(kept.sum(axis=1), firsts)
        filled = np.arange(length) < used[:, None]
        for name, values in features.items():
            packed[name] = np.zeros(filled.shape, values.dtype)
            packed[name][filled] = values[kept]
    return packed
