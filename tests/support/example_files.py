"""Write an examples directory of any size, with tokens of chance, as the real stage lays it out.

Read records of one, and change its manifest.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import train_model

from mswitch.pipelines import storage
from mswitch.pipelines.examples.example_proto import decode_example, encode_example
from mswitch.pipelines.examples.span_corruption import span_corruption
from mswitch.pipelines.examples.tfrecord import TFRecordFile, index_path, write_tfrecord
from mswitch.pipelines.languages import name_task
from mswitch.pipelines.outputs import MANIFEST, MARKER, file_sha256, full_manifest
from mswitch.pipelines.special_tokens import SENTINELS
from mswitch.pipelines.vocabulary.model import add_sentinels
from mswitch.tasks.batches.examples import VOCABULARY_PATH


def open_tfrecord(path: Path) -> TFRecordFile:
    return TFRecordFile(path, path.stat().st_size, Path(index_path(path)).stat().st_size)


def stored(examples: Path, lang: str, split: str, shard: int | None = None) -> list[dict[str, Any]]:
    """The records of one of mC4's languages, in the order of its shards, or of one of these."""
    number = "*" if shard is None else f"{shard:05}"
    paths = sorted((examples / f"mc4.{lang}").glob(f"{split}.tfrecord-{number}-of-0000?"))
    return [decode_example(data) for path in paths for data in open_tfrecord(path)]


def change_manifest(examples: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((examples / MANIFEST).read_text())
    change(manifest)
    (examples / MANIFEST).write_text(json.dumps(manifest))


def vocabulary(size: int) -> bytes:
    """A model of `size` ids in T5's layout; most pieces are never found in text."""
    model = train_model(["all human beings are born free and equal"] * 20, 300)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for number in range(len(proto.pieces), size - SENTINELS):
        piece = proto.pieces.add()
        piece.piece, piece.score = f"\N{PRIVATE USE ONE}{number}", -100.0
    return add_sentinels(proto.SerializeToString())


def write_examples(
    out: Path,
    records: Mapping[str, Sequence[int]],
    inputs_length: int,
    vocabulary_size: int,
    validation: int = 0,
) -> Path:
    """Write raw training segments of full length, and short finished examples for validation.

    Args:
        out: where.
        records: by language, how many each shard has.
        inputs_length: encoder positions.
        vocabulary_size: all ids.
        validation: how many validation examples each language has, a document each.
    """
    rng = np.random.default_rng(0)
    lengths = span_corruption(inputs_length, 0.15, 3.0)
    described = {}
    for lang, counts in records.items():
        (out / name_task(lang)).mkdir(parents=True)
        shards = []
        for number, count in enumerate(counts):
            path = f"{name_task(lang)}/train.tfrecord-{number:05}-of-{len(counts):05}"
            shape = (count, lengths.raw_length)
            tokens = rng.integers(3, vocabulary_size - SENTINELS, shape, np.int32)
            starts = np.zeros(0, np.int64)
            rows = (encode_example({"targets": row, "document_starts": starts}) for row in tokens)
            _, size, sha256 = write_tfrecord(out / path, rows)
            shards.append({"path": path, "records": count, "bytes": size, "sha256": sha256})
        described[lang] = {
            "train": {"records": sum(counts), "tokens": sum(counts) * lengths.raw_length}
            | {"documents": len(counts), "bytes": 0, "shards": shards}
        }
        if validation:
            path = f"{name_task(lang)}/validation.tfrecord-00000-of-00001"
            tokens = rng.integers(3, vocabulary_size - SENTINELS, (validation, 12), np.int32)
            rows = (
                encode_example(
                    {"inputs": row[:8], "targets": row[8:], "target_bytes": row[:1]}
                    | {"document": [f"{number}".encode()]}
                )
                for number, row in enumerate(tokens)
            )
            _, size, sha256 = write_tfrecord(out / path, rows)
            shards = [{"path": path, "records": validation, "bytes": size, "sha256": sha256}]
            described[lang]["validation"] = {
                **{"records": validation, "tokens": tokens.size, "documents": validation},
                **{"bytes": size, "shards": shards},
            }
    (out / VOCABULARY_PATH).parent.mkdir()
    (out / VOCABULARY_PATH).write_bytes(vocabulary(vocabulary_size))
    manifest = full_manifest(
        "examples",
        {"inputs_length": inputs_length},
        {
            "inputs_length": inputs_length,
            "targets_length": lengths.targets_length,
            "raw_length": lengths.raw_length,
            "noise_density": 0.15,
            "mean_noise_span_length": 3.0,
            "vocabulary_size": vocabulary_size,
            "vocabulary_sha256": file_sha256(out / VOCABULARY_PATH),
            "languages": described,
        },
    )
    storage.write_json(out / MANIFEST, manifest)
    storage.write_json(out / MARKER, {"config_hash": manifest["config_hash"]})
    return out


def restore(inputs: np.ndarray, targets: np.ndarray, vocabulary_size: int) -> np.ndarray:
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
