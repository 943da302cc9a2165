"""Makes validation examples with spans of raw text, which are the same for every vocabulary.

A vocabulary with longer tokens masks longer spans and shows more text beside them, so losses of
models with different vocabularies measure different tasks. Here windows and spans depend only on
the text, and the measure is bytes. Spans and the text between them are tokenised separately.
"""

import itertools
import operator
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
import sentencepiece

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    SpanCorruption,
    count_draws,
    draw,
    hash_stream,
    random_spans_noise_mask,
)
from mswitch.pipelines.special_tokens import EOS_ID, SENTINELS

#: Mean bytes of a span: about three tokens.
SPAN_BYTES = 10.0
#: In longer words, such as in scripts without spaces, a span can begin at any character.
_LONGEST_WORD_BYTES = 30
_WORDS = re.compile(r"\s*\S+\s*\Z|\s*\S+")


def cut_windows(text: str, size: int) -> Iterator[str]:
    """Cut a text into pieces of at most `size` bytes, losslessly, between characters."""
    raw, start = text.encode(), 0
    while start < len(raw):
        stop = min(start + size, len(raw))
        while stop < len(raw) and raw[stop] & 0xC0 == 0x80:
            stop -= 1
        yield raw[start:stop].decode()
        start = stop


def cut_units(text: str) -> list[str]:
    """Cut a text into units: words with the space before them, or the characters of long words."""
    words = _WORDS.findall(text) or [text]
    return [
        unit
        for word in words
        for unit in ([word] if len(word.encode()) <= _LONGEST_WORD_BYTES else word)
    ]


def cut_spans(text: str, key: ExampleKey, noise_density: float) -> list[tuple[str, bool]]:
    """Cut a text into pieces, alternately shown and masked; return whether each piece is masked."""
    pieces = cut_units(text)
    mean = max(1.0, SPAN_BYTES * len(pieces) / len(text.encode()))
    noise, other = count_draws(len(pieces), noise_density, mean)
    drawn = draw(key, noise + other)[None]
    [mask] = random_spans_noise_mask(
        len(pieces), noise_density, mean, drawn[:, :noise], drawn[:, noise:]
    )
    runs = itertools.groupby(zip(pieces, mask.tolist(), strict=True), operator.itemgetter(1))
    return [("".join(unit for unit, _ in run), masked) for masked, run in runs]


def make_byte_examples(
    document: str,
    text: str,
    vocabulary: sentencepiece.SentencePieceProcessor,
    lengths: SpanCorruption,
    *,
    seed: int,
    window_bytes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield inputs, targets and masked bytes of each window of a document.

    Some windows are left out, for every vocabulary alike: windows with a single word, with more
    spans than sentinels, or with a longer form in NFKC, which vocabularies read.

    Inputs and targets must fit `lengths.inputs_length`; `lengths.noise_density` is the share of
    masked units. The id `document` and `seed` decide the draws. `vocabulary` has sentinels.
    """
    highest = vocabulary.GetPieceSize() - 1
    for number, window in enumerate(cut_windows(text, window_bytes)):
        if len(unicodedata.normalize("NFKC", window).encode()) > window_bytes:
            continue
        key = ExampleKey(seed, hash_stream(document), number, epoch=0)
        inputs: list[int] = []
        targets: list[int] = []
        size = borders = 0
        pieces = cut_spans(window, key, lengths.noise_density)
        if sum(masked for _, masked in pieces) > SENTINELS:
            continue
        for piece, masked in pieces:
            tokens = _tokenise(piece, vocabulary, first=not inputs)
            if masked:
                inputs.append(highest - borders)
                targets += [highest - borders, *tokens]
                size += len(piece.encode())
                borders += 1
            else:
                inputs += tokens
        if not size:
            continue
        longest = max(len(inputs), len(targets)) + 1
        if longest > lengths.inputs_length:
            raise UserError(
                f"{window_bytes} bytes of document {document} are {longest} tokens, more than "
                f"inputs_length {lengths.inputs_length}: give a smaller --window-bytes, the same "
                "for every vocabulary that is compared"
            )
        yield np.array([*inputs, EOS_ID]), np.array([*targets, EOS_ID]), size


def _tokenise(
    piece: str, vocabulary: sentencepiece.SentencePieceProcessor, *, first: bool
) -> list[int]:
    """Tokenise a piece of a text; drop the space that SentencePiece adds before a text."""
    tokens = vocabulary.EncodeAsIds(piece)
    if tokens and not first and not piece[0].isspace():
        alone = vocabulary.IdToPiece(tokens[0]) == "\N{LOWER ONE EIGHTH BLOCK}"
        return tokens[1:] if alone else tokens
    return tokens
