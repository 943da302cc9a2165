"""One corpus shard becomes one TFRecord shard of examples; nothing here knows of Beam.

Training records are raw segments: the documents of a shard, concatenated and cut losslessly into
`raw_length` tokens; masks are drawn when they are read. Validation records are frozen corrupted
examples that never cross documents.

The records of a language are shuffled as a whole, once and by hash, without moving them again: the
corpus sorts documents by the hash of their URL, a shard is a range of hashes, so any document is
as likely in one place as in another; and the segments of a shard, in which neighbours are of one
document, are permuted. (Crawls that were added to a corpus follow with shards of their own.)
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import sentencepiece

from pipelines.corpus.reader import CorpusShard
from pipelines.examples.span_corruption import (
    EOS_ID,
    ExampleKey,
    SpanCorruption,
    Tokens,
    corrupt,
    philox,
    random_masks,
    stream_key,
)
from pipelines.examples.tf_example import encode_example
from pipelines.examples.tfrecord import write_tfrecord
from pipelines.languages import task_name
from pipelines.outputs import file_sha256

#: What SentencePiece writes for a space.
SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
#: About as many bytes of text are tokenised by one call.
CALL_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ExampleUnit:
    """One unit of work: the corpus shard and the shard it becomes.

    Attributes:
        corpus_shard: what to read.
        number: which shard of its language and split.
        of: how many shards that language and split have.
    """

    corpus_shard: CorpusShard
    number: int
    of: int

    @property
    def path(self) -> str:
        """The TFRecord shard, relative to the examples directory."""
        shard = self.corpus_shard
        name = f"{shard.split}.tfrecord-{self.number:05}-of-{self.of:05}"
        return f"{task_name(shard.lang)}/{name}"


@dataclasses.dataclass(frozen=True)
class ShardSettings:
    """What every unit shares.

    Attributes:
        lengths: noise parameters and lengths.
        seed: of the masks of validation examples and of the order of training segments.
        separate_documents: whether an EOS stands after each document of a training stream.
        validation_segments: at most so many examples of a validation document; None for all.
    """

    lengths: SpanCorruption
    seed: int
    separate_documents: bool
    validation_segments: int | None = None


@dataclasses.dataclass
class ShardCounts:
    """What went into one shard: documents, their UTF-8 bytes, tokens, longest features."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    inputs_tokens: int = 0
    inputs_max_tokens: int = 0
    targets_tokens: int = 0
    targets_max_tokens: int = 0

    def add_example(self, inputs: Tokens | None, targets: Tokens) -> None:
        """Count one record's features."""
        if inputs is not None:
            self.inputs_tokens += inputs.size
            self.inputs_max_tokens = max(self.inputs_max_tokens, inputs.size)
        self.targets_tokens += targets.size
        self.targets_max_tokens = max(self.targets_max_tokens, targets.size)


@functools.lru_cache(maxsize=1)  # takes seconds for a large vocabulary; a worker has one
def bytes_per_id(vocabulary: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """UTF-8 bytes of (normalised) text each id stands for; [vocabulary size] int64."""
    sizes = np.zeros(vocabulary.GetPieceSize(), np.int64)
    for token in range(sizes.size):
        if vocabulary.IsByte(token):
            sizes[token] = 1
        elif not vocabulary.IsControl(token) and not vocabulary.IsUnknown(token):
            piece = vocabulary.IdToPiece(token).replace(SPACE_MARK, " ")
            sizes[token] = len(piece.encode())
    return sizes


def tokenised(
    shard: CorpusShard, vocabulary: sentencepiece.SentencePieceProcessor, counts: ShardCounts
) -> Iterator[tuple[str, Tokens]]:
    """Id and tokens of every document that has any, a few documents at a time.

    One call for many documents is a quarter faster than one for each; a call returns Python
    integers, so it gets a bounded amount of text.
    """
    for batch in shard.batches(("id", "text")):
        ids, texts = (batch.column(name) for name in ("id", "text"))
        # Of a string column, binary_length counts UTF-8 bytes.
        sizes = pc.call_function("binary_length", [texts]).to_numpy(zero_copy_only=False)
        counts.documents += len(texts)
        counts.bytes += int(sizes.sum())
        groups = np.cumsum(sizes, dtype=np.int64) // CALL_BYTES
        edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(texts)]
        for start, stop in itertools.pairwise(edges):
            names = ids.slice(start, stop - start).to_pylist()
            encoded = vocabulary.EncodeAsIds(
                texts.slice(start, stop - start).to_pylist(), num_threads=1
            )
            for name, tokens in zip(names, encoded, strict=True):
                counts.tokens += len(tokens)
                if tokens:
                    yield name, np.array(tokens, np.int32)


def split_segments(tokens: Tokens, length: int) -> list[Tokens]:
    """Cut losslessly into segments of `length`, the last as it comes (t5 `split_tokens`)."""
    return [tokens[start : start + length] for start in range(0, tokens.size, length)]


def training_records(
    unit: ExampleUnit,
    vocabulary: sentencepiece.SentencePieceProcessor,
    settings: ShardSettings,
    counts: ShardCounts,
) -> Iterator[bytes]:
    """Segments of the concatenated documents, permuted.

    A record holds `targets` (at most raw_length tokens) and `document_starts`, the positions in
    it at which a document begins.
    """
    pieces, starts, position = [], [], 0
    for _, tokens in tokenised(unit.corpus_shard, vocabulary, counts):
        whole = np.append(tokens, np.int32(EOS_ID)) if settings.separate_documents else tokens
        pieces.append(whole)
        starts.append(position)
        position += whole.size
    if not pieces:
        return
    raw_length = settings.lengths.raw_length
    segments = split_segments(np.concatenate(pieces), raw_length)
    document_starts = np.array(starts, np.int64)
    generator = np.random.Generator(philox([0] * 4, [settings.seed, stream_key(unit.path)]))
    for index in generator.permutation(len(segments)).tolist():
        begin, end = np.searchsorted(
            document_starts, [index * raw_length, (index + 1) * raw_length]
        )
        counts.add_example(None, segments[index])
        yield encode_example(
            {
                "targets": segments[index],
                "document_starts": document_starts[begin:end] - index * raw_length,
            }
        )


def validation_records(
    unit: ExampleUnit,
    vocabulary: sentencepiece.SentencePieceProcessor,
    settings: ShardSettings,
    counts: ShardCounts,
) -> Iterator[bytes]:
    """Frozen corrupted examples, document by document, each mask keyed by document and segment.

    A record holds `inputs`, `targets`, `document` (the corpus id) and `target_bytes`, the UTF-8
    bytes of the masked text.
    """
    size = vocabulary.GetPieceSize()
    sizes = bytes_per_id(vocabulary)
    lengths = settings.lengths
    for document, tokens in tokenised(unit.corpus_shard, vocabulary, counts):
        stream = stream_key(document)
        segments = split_segments(tokens, lengths.raw_length)[: settings.validation_segments]
        for index, segment in enumerate(segments):
            key = ExampleKey(settings.seed, stream, index, epoch=0)
            mask = random_masks(segment.size, lengths, [key])
            inputs, targets = (rows[0] for rows in corrupt(segment[None], mask, size, lengths))
            counts.add_example(inputs, targets)
            yield encode_example(
                {
                    "inputs": inputs,
                    "targets": targets,
                    "document": [document.encode()],
                    "target_bytes": np.array([sizes[segment[mask[0]]].sum()]),
                }
            )


def write_shard(
    unit: ExampleUnit,
    directory: Path,
    vocabulary: sentencepiece.SentencePieceProcessor,
    settings: ShardSettings,
) -> dict[str, Any]:
    """Write one shard with its index; the same unit always gives the same bytes.

    Returns:
        Its description: lang, split, number, path, records, size_bytes, sha256, and the counts.
    """
    path = directory / unit.path
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = ShardCounts()
    make = training_records if unit.corpus_shard.split == "train" else validation_records
    records, size_bytes = write_tfrecord(path, make(unit, vocabulary, settings, counts))
    return {
        "lang": unit.corpus_shard.lang,
        "split": unit.corpus_shard.split,
        "number": unit.number,
        "path": unit.path,
        "records": records,
        "size_bytes": size_bytes,
        "sha256": file_sha256(path),
        "counts": dataclasses.asdict(counts),
    }
