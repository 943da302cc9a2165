"""The work of `examples supervised` against bare SentencePiece encoding, in one process.

    python tests/benchmarks/supervised.py [--data runs/bench-transfer]

Rows are names of three emoji (fetched with apt-get once) in English and another language, of the
eight languages that have most. The vocabulary has 32,000 pieces of them. One side encodes inputs
and targets, 4,096 texts a call; the other reads JSON Lines, renders, folds and splits rows, and
writes parts, and of them shards. Rounds alternate; ratios are medians of the rounds' own, by CPU
time.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from timing import ROOT, cpu_secs, judge, options

from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.supervised.definition import SupervisedTask, read_task
from mswitch.pipelines.supervised.directory import plan_shards
from mswitch.pipelines.supervised.samples.names import fetch_names
from mswitch.pipelines.supervised.samples.writer import (
    TASK_FILE,
    write_rows,
    write_sample,
    write_task,
)
from mswitch.pipelines.supervised.shards import CALL_ROWS, InputFile, read_file, write_shard
from mswitch.pipelines.vocabulary.model import add_sentinels, load_vocabulary

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from sentencepiece_models import train_model

FILES = 8
LENGTHS = Lengths(128, 128)


def write_threes(directory: Path) -> Mapping[str, int]:
    """Write a task whose rows are three neighbouring names, and their English."""
    names: dict[str, dict[str, str]] = {}
    for row in fetch_names(directory):
        names.setdefault(row["lang"], {})[row["emoji"]] = row["name"]
    english = names.pop("en")
    counts = {}
    for lang in sorted(names, key=lambda lang: -len(names[lang]))[:FILES]:
        emoji = [each for each in names[lang] if each in english]
        threes = [emoji[start : start + 3] for start in range(len(emoji) - 2)]
        sides = {"en": english, "text": names[lang]}
        rows = [
            {key: ", ".join(side[each] for each in three) for key, side in sides.items()}
            for three in threes
        ]
        write_rows(directory / f"{lang}.jsonl", [{"lang": lang, **row} for row in rows])
        counts[lang] = len(rows)
    write_task(
        directory,
        name="threes",
        files="*.jsonl",
        split="hash",
        inputs="translate: {en}",
        targets="{text}",
        language="{lang}",
        metrics=["chrf"],
    )
    return counts


def prepare(data: Path) -> tuple[SupervisedTask, list[InputFile], Path]:
    """The task, its files and a vocabulary; what is there is used again."""
    write_sample(data / "names", {"sample": "threes"}, write_threes)
    task = read_task(data / "names" / TASK_FILE)
    paths = [Path(path) for path in task.files["hash"]]
    model = data / "sentencepiece.model"
    if not model.exists():
        lines = [line for path in paths for line in path.read_text("utf-8").splitlines()[:10_000]]
        model.write_bytes(add_sentinels(train_model(lines, 32_000)))
    files = [
        InputFile(str(path), "hash", number, path.stat().st_size)
        for number, path in enumerate(paths)
    ]
    return task, files, model


def main() -> None:
    data = options(__doc__, data=ROOT / "runs" / "bench-transfer").data
    data.mkdir(parents=True, exist_ok=True)
    task, files, model = prepare(data)
    vocabulary = load_vocabulary(model)
    with tempfile.TemporaryDirectory() as out:
        parts = f"{out}/parts"
        described = [read_file(file, parts, task=task) for file in files]
        shards = plan_shards(task.name, described, parts)
        tables = [shard.read() for shard in shards]
        texts = [[t[name].to_pylist() for name in ("inputs", "targets")] for t in tables]

        def encode() -> None:
            for both in texts:
                for some in both:
                    for start in range(0, len(some), CALL_ROWS):
                        vocabulary.EncodeAsIds(some[start : start + CALL_ROWS], num_threads=1)

        def read() -> None:
            for file in files:
                read_file(file, parts, task=task)

        def write() -> None:
            for shard in shards:
                write_shard(shard, f"{out}/shards", model=str(model), lengths=LENGTHS)

        secs = cpu_secs(encode, read, write)
    rows = sum(part["records"] for part in described)
    names = ("SentencePiece alone", "rows to parts", "parts to shards")
    for name, taken in zip(names, secs, strict=True):
        print(f"{name}: {1e6 * median(taken) / rows:.1f} CPU microseconds a row")
    ratio = median(bare / (one + two) for bare, one, two in zip(*secs, strict=True))
    judge(f"building {rows:,} rows over SentencePiece alone", ratio, least=0.6)


if __name__ == "__main__":
    main()
