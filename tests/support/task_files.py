"""Write a directory of supervised examples, as the real stage lays it out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece_models import train_model

from mswitch.pipelines import storage
from mswitch.pipelines.examples.example_proto import encode_example
from mswitch.pipelines.examples.tfrecord import lengths_path, write_tfrecord
from mswitch.pipelines.outputs import MANIFEST, MARKER, file_sha256, full_manifest
from mswitch.pipelines.special_tokens import EOS_ID
from mswitch.pipelines.vocabulary.model import add_sentinels
from mswitch.tasks.batches.examples import VOCABULARY_PATH

#: Of a row: group, inputs, targets.
Row = tuple[str, str, str]


def vocabulary(texts: Sequence[str]) -> bytes:
    """A model in T5's layout that knows the characters of some texts."""
    return add_sentinels(train_model(texts * 20, 60, byte_fallback=False))


def write_supervised(
    out: Path,
    rows: Mapping[str, Mapping[str, Sequence[Row]]],
    model: bytes,
    *,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] = ("accuracy",),
    lengths: tuple[int, int] = (32, 8),
) -> Path:
    """Write one shard of each language and split.

    Args:
        out: where.
        rows: by language and split.
        model: of SentencePiece, in T5's layout.
        labels: the closed set of targets.
        metrics: of the task.
        lengths: of inputs and targets, EOS included.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    described: dict[str, dict] = {}
    for lang, splits in rows.items():
        (out / f"toy.{lang}").mkdir(parents=True)
        for split, found in splits.items():
            path = f"toy.{lang}/{split}.tfrecord-00000-of-00001"

            def encode(text: str, length: int) -> np.ndarray:
                return np.array([*processor.EncodeAsIds(text)[: length - 1], EOS_ID], np.int64)

            pairs = [
                (encode(inputs, lengths[0]), encode(targets, lengths[1]))
                for _, inputs, targets in found
            ]
            records = (
                encode_example(
                    {
                        "inputs": pairs[number][0],
                        "targets": pairs[number][1],
                        "id": [f"{split}:{number}".encode()],
                        "language": [lang.encode()],
                        "group": [group.encode()],
                        "inputs_pretokenized": [inputs.encode()],
                        "targets_pretokenized": [targets.encode()],
                        "answers": [targets.encode()],
                    }
                )
                for number, (group, inputs, targets) in enumerate(found)
            )
            _, size, sha256 = write_tfrecord(out / path, records)
            sizes = np.array([[part.size for part in pair] for pair in pairs], "<u4")
            Path(lengths_path(out / path)).write_bytes(sizes.tobytes())
            shards = [{"path": path, "records": len(found), "bytes": size, "sha256": sha256}]
            described.setdefault(lang, {})[split] = {"records": len(found), "shards": shards}
    (out / VOCABULARY_PATH).parent.mkdir()
    (out / VOCABULARY_PATH).write_bytes(model)
    manifest = full_manifest(
        "examples",
        {"rows": {lang: {s: list(r) for s, r in splits.items()} for lang, splits in rows.items()}},
        {
            "kind": "supervised",
            "finished": True,
            "inputs_length": lengths[0],
            "targets_length": lengths[1],
            "vocabulary_size": processor.GetPieceSize(),
            "vocabulary_sha256": file_sha256(out / VOCABULARY_PATH),
            "languages": described,
            "task": {
                "name": "toy",
                "inputs": "{inputs}",
                "targets": "{targets}",
                "labels": None if labels is None else list(labels),
                "metrics": list(metrics),
                "hash": "0" * 16,
            },
        },
    )
    storage.write_json(out / MANIFEST, manifest)
    storage.write_json(out / MARKER, {"config_hash": manifest["config_hash"]})
    return out
