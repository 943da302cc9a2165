"""Makes segments from documents: from all tokens, or from a part, as T5's own pipeline does.

`t5` is the chain of t5's `span_corruption` task (Raffel et al. 2020; also mT5's), step by step with
t5's names: one chunk of each document and epoch, 128 documents joined, cut to segments.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    Tokens,
    draw,
    hash_stream,
)
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID

Chain = Literal["lossless", "t5"]

#: Defaults of t5: tokens of a chunk, and number of documents to join.
MAX_CHUNK_TOKENS = 65_536
JOINED_DOCUMENTS = 128

#: A document is its id and tokens. A segment is its tokens and the starts of documents in it.
Document = tuple[str, Tokens]
Segment = tuple[Tokens, np.ndarray]


def split_tokens(tokens: Tokens, length: int) -> list[Tokens]:
    """Cut all tokens into segments of `length`, as t5's `split_tokens`; the last may be shorter."""
    return [tokens[start : start + length] for start in range(0, tokens.size, length)]


def select_random_chunk(tokens: Tokens, max_length: int, draw: int) -> Tokens:
    """Cut tokens into chunks of `max_length`; return the chunk that 32 random bits select (t5)."""
    chunks = -(-tokens.size // max_length)
    start = (draw * chunks >> 32) * max_length
    return tokens[start : start + max_length]


def reduce_concat_tokens(documents: Iterable[Tokens], count: int) -> Iterator[list[Tokens]]:
    """Yield groups of `count` documents without padding ids; the last may be smaller (t5).

    t5 pads documents to join them, then drops every padding id, even those of a document itself.
    """
    remaining = iter(documents)
    while group := list(itertools.islice(remaining, count)):
        yield [tokens[tokens != PAD_ID] for tokens in group]


def join_lossless(
    documents: Iterable[Document], length: int, *, separate: bool
) -> Iterator[Segment]:
    """Join all documents and cut them into segments of `length`; only the last may be shorter.

    `length` counts tokens; with `separate`, an EOS follows each document.
    """
    eos = np.array([EOS_ID], np.int32)
    pieces = [np.concatenate([tokens, eos]) if separate else tokens for _, tokens in documents]
    return _cut(pieces, length)


def t5(documents: Iterable[Document], length: int, *, seed: int) -> Iterator[Segment]:
    """Make an epoch's segments like T5, from one random chunk of each document.

    The document's id and the seed determine the chunk.
    `length` counts tokens of a segment; no document may be empty.
    """
    chunks = (
        select_random_chunk(
            tokens,
            MAX_CHUNK_TOKENS,
            int(draw(ExampleKey(seed, hash_stream(document), 0, epoch=0), 1)[0]),
        )
        for document, tokens in documents
    )
    for group in reduce_concat_tokens(chunks, JOINED_DOCUMENTS):
        yield from _cut(group, length)


def _cut(pieces: list[Tokens], length: int) -> Iterator[Segment]:
    if not pieces:
        return
    ends = np.cumsum([piece.size for piece in pieces])
    starts = np.unique(ends - [piece.size for piece in pieces])
    for number, segment in enumerate(split_tokens(np.concatenate(pieces), length)):
        begin, end = np.searchsorted(starts, [number * length, number * length + segment.size])
        yield segment, starts[begin:end] - number * length
