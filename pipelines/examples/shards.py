"""Makes one TFRecord shard of examples from each corpus shard, without Beam.

Training records are raw segments (`segments`), whose masks are drawn when they are read, or
finished examples. Validation records are frozen corrupted examples that never cross documents.

All records of a language are shuffled once, by hash, without moving them again. The corpus sorts
documents by the hash of their URL, and a shard is a range of hashes, so any document may be at any
place. And the segments of a shard are permuted, since neighbours come from the same document.
(Crawls that were added to a corpus follow in their own shards.)
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
import sentencepiece

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.reader import CorpusShard
from mswitch.pipelines.examples.byte_spans import make_byte_examples
from mswitch.pipelines.examples.config import ExamplesConfig
from mswitch.pipelines.examples.example_proto import encode_example
from mswitch.pipelines.examples.rehydration import Rehydration, spread_copies
from mswitch.pipelines.examples.segments import join_lossless, split_tokens, t5
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    Mask,
    SpanCorruption,
    Tokens,
    corrupt,
    draw_masks,
    hash_stream,
    make_philox,
)
from mswitch.pipelines.examples.tfrecord import write_tfrecord
from mswitch.pipelines.languages import name_task
from mswitch.pipelines.vocabulary.model import load_vocabulary

#: SentencePiece's character for a space.
SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
CALL_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ExampleShard:
    """A corpus shard, and the example shard it becomes.

    Attributes:
        corpus_shard: the shard to read.
        number: its number within its language and split.
        of: number of shards of that language and split.
    """

    corpus_shard: CorpusShard
    number: int
    of: int

    @property
    def path(self) -> str:
        """Path of the TFRecord shard, relative to the examples directory."""
        shard = self.corpus_shard
        name = f"{shard.split}.tfrecord-{self.number:05}-of-{self.of:05}"
        return f"{name_task(shard.lang)}/{name}"

    @property
    def size_bytes(self) -> int:
        """Bytes of the corpus shard."""
        return self.corpus_shard.size_bytes


@dataclasses.dataclass
class ShardCounts:
    """Counts of a shard: documents, their UTF-8 bytes, tokens, longest inputs and targets.

    If training documents are repeated (`rehydration`), bytes and tokens count each time, and
    `copies` counts documents including repetitions.
    """

    documents: int = 0
    copies: int = 0
    bytes: int = 0
    tokens: int = 0
    inputs_tokens: int = 0
    inputs_max_tokens: int = 0
    targets_tokens: int = 0
    targets_max_tokens: int = 0

    def add_example(self, inputs: Tokens | None, targets: Tokens) -> None:
        """Add the lengths of an example's inputs and targets to the counts."""
        if inputs is not None:
            self.inputs_tokens += inputs.size
            self.inputs_max_tokens = max(self.inputs_max_tokens, inputs.size)
        self.targets_tokens += targets.size
        self.targets_max_tokens = max(self.targets_max_tokens, targets.size)


@functools.lru_cache(maxsize=1)  # takes seconds for a large vocabulary; a worker loads only one
def measure_ids(vocabulary: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """Return the number of UTF-8 bytes of each id's (normalised) text: int64 [vocabulary size]."""
    sizes = np.zeros(vocabulary.GetPieceSize(), np.int64)
    for token in range(sizes.size):
        if vocabulary.IsByte(token):
            sizes[token] = 1
        elif not vocabulary.IsControl(token) and not vocabulary.IsUnknown(token):
            piece = vocabulary.IdToPiece(token).replace(SPACE_MARK, " ")
            sizes[token] = len(piece.encode())
    return sizes


def tokenise(
    shard: CorpusShard,
    vocabulary: sentencepiece.SentencePieceProcessor,
    counts: ShardCounts,
    rehydration: Rehydration | None = None,
) -> Iterator[tuple[str, Tokens]]:
    """Yield id and tokens of every document that has tokens; copies of a document are adjacent.

    One call for many documents is a quarter faster than a call for each. A call returns Python
    integers, so its amount of text is bounded.
    """
    columns = ("id", "text", *([rehydration.column] if rehydration else ()))
    for batch in shard.batches(columns):
        ids, texts = (batch.column(name) for name in ("id", "text"))
        copies = [1] * len(texts)
        if rehydration:
            cluster_sizes = batch.column(rehydration.column).to_pylist()
            copies = [rehydration.copies(shard.lang, size) for size in cluster_sizes]
        sizes = pc.call_function("binary_length", [texts]).to_numpy(zero_copy_only=False)
        counts.documents += len(texts)
        counts.copies += sum(copies)
        counts.bytes += int(sizes @ np.array(copies, np.int64))
        groups = np.cumsum(sizes, dtype=np.int64) // CALL_BYTES
        edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(texts)]
        for start, stop in itertools.pairwise(edges):
            names = ids.slice(start, stop - start).to_pylist()
            encoded = vocabulary.EncodeAsIds(
                texts.slice(start, stop - start).to_pylist(), num_threads=1
            )
            for name, tokens, times in zip(names, encoded, copies[start:stop], strict=True):
                counts.tokens += times * len(tokens)
                if tokens:
                    yield from itertools.repeat((name, np.array(tokens, np.int32)), times)


def make_training_records(
    shard: ExampleShard,
    vocabulary: sentencepiece.SentencePieceProcessor,
    config: ExamplesConfig,
    counts: ShardCounts,
    rehydration: Rehydration | None = None,
) -> Iterator[bytes]:
    """Join the documents, cut them into segments, and yield the segments' records, permuted.

    A record has `targets` (at most raw_length tokens) and `document_starts`, the positions in
    `targets` at which a document begins. With `config.finished`, it has `inputs` and `targets`.
    """
    documents = tokenise(shard.corpus_shard, vocabulary, counts, rehydration)
    if rehydration:
        documents = spread_copies(documents)
    lengths, stream = config.lengths(), hash_stream(shard.path)
    if config.chain == "t5":
        segments = list(t5(documents, lengths.raw_length, seed=config.seed))
    else:
        separate = config.separate_documents
        segments = list(join_lossless(documents, lengths.raw_length, separate=separate))
    # The second counter word makes these draws differ from the draws of masks (`draw`).
    generator = np.random.Generator(make_philox([0, 1, 0, 0], [config.seed, stream]))
    for number in generator.permutation(len(segments)).tolist():
        targets, starts = segments[number]
        if config.finished:
            key = ExampleKey(config.seed, stream, number, epoch=0)
            kind = lengths.kinds[lengths.choose(key)]
            inputs, targets, _ = _corrupt(targets, key, vocabulary, kind)
            counts.add_example(inputs, targets)
            yield encode_example({"inputs": inputs, "targets": targets})
        else:
            counts.add_example(None, targets)
            yield encode_example({"targets": targets, "document_starts": starts})


def _corrupt(
    segment: Tokens,
    key: ExampleKey,
    vocabulary: sentencepiece.SentencePieceProcessor,
    kind: SpanCorruption,
) -> tuple[Tokens, Tokens, Mask]:
    mask = draw_masks(segment.size, kind, [key])
    inputs, targets = corrupt(segment[None], mask, vocabulary.GetPieceSize(), kind)
    return inputs[0], targets[0], mask[0]


def make_validation_records(
    shard: ExampleShard,
    vocabulary: sentencepiece.SentencePieceProcessor,
    config: ExamplesConfig,
    counts: ShardCounts,
) -> Iterator[bytes]:
    """Yield fixed corrupted examples of each document; document and segment decide each mask.

    A record has `inputs`, `targets`, `document` (the corpus id) and `target_bytes`, the UTF-8 bytes
    of the masked text. With several kinds of corruption, each segment has a record of each kind,
    with the kind's number as `denoiser`.
    """
    sizes, lengths = measure_ids(vocabulary), config.lengths()
    kinds = lengths.kinds
    for document, tokens in tokenise(shard.corpus_shard, vocabulary, counts):
        stream = hash_stream(document)
        segments = split_tokens(tokens, lengths.raw_length)
        chosen = itertools.product(
            enumerate(segments[: config.validation_segments]), range(len(kinds))
        )
        for (number, segment), kind in chosen:
            # The key has the number of the kind of corruption in place of an epoch, so each kind
            # has its own masks. If there is only one kind, its number is 0.
            key = ExampleKey(config.seed, stream, number, epoch=kind)
            inputs, targets, mask = _corrupt(segment, key, vocabulary, kinds[kind])
            counts.add_example(inputs, targets)
            record = {
                "inputs": inputs,
                "targets": targets,
                "document": [document.encode()],
                "target_bytes": np.array([sizes[segment[mask]].sum()]),
            }
            yield encode_example(record | ({"denoiser": np.array([kind])} if kinds[1:] else {}))


def make_byte_validation_records(
    shard: ExampleShard,
    vocabulary: sentencepiece.SentencePieceProcessor,
    config: ExamplesConfig,
    counts: ShardCounts,
) -> Iterator[bytes]:
    """Yield fixed validation examples that mask spans of raw text, not of tokens (`byte_spans`)."""
    lengths = config.lengths()
    for row in shard.corpus_shard.documents():
        document, text = row["id"], row["text"]
        counts.documents += 1
        counts.bytes += len(text.encode())
        examples = make_byte_examples(
            document,
            text,
            vocabulary,
            lengths,
            seed=config.seed,
            window_bytes=config.window,
        )
        for inputs, targets, size in itertools.islice(examples, config.validation_segments):
            counts.tokens += inputs.size + targets.size
            counts.add_example(inputs, targets)
            yield encode_example(
                {
                    "inputs": inputs,
                    "targets": targets,
                    "document": [document.encode()],
                    "target_bytes": np.array([size]),
                }
            )


load_cached_vocabulary = functools.lru_cache(maxsize=1)(load_vocabulary)


def write_shard(
    shard: ExampleShard,
    directory: str,
    *,
    model: str,
    config: ExamplesConfig,
    rehydration: Rehydration | None = None,
) -> dict[str, Any]:
    """Write a shard with its index; repeated writing yields the same bytes.

    `directory` is the examples directory, `model` the vocabulary's model file. If `rehydration` is
    None, no training document is repeated. Return the result of `write_records`.
    """
    counts, vocabulary, lang = ShardCounts(), load_cached_vocabulary(model), shard.corpus_shard.lang
    if shard.corpus_shard.split == "train":
        records = make_training_records(shard, vocabulary, config, counts, rehydration)
        return write_records(shard.path, directory, records, counts, lang, "train")
    make = make_byte_validation_records if config.window else make_validation_records
    records = make(shard, vocabulary, config, counts)
    return write_records(shard.path, directory, records, counts, lang, "validation")


def write_records(
    path: str, directory: str, records: Iterable[bytes], counts: ShardCounts, lang: str, split: str
) -> dict[str, Any]:
    """Write a shard's records and index; the iterator `records` also updates `counts`.

    Return the shard's description: lang, split, path, records, size_bytes, sha256, counts.
    """
    whole = storage.join(directory, path)
    storage.make_directory(os.path.dirname(whole))
    written = write_tfrecord(whole, records)._asdict()
    counted = dataclasses.asdict(counts)
    return {"lang": lang, "split": split, "path": path, **written, "counts": counted}
