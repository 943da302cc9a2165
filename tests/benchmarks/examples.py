"""The examples stage against bare SentencePiece encoding.

    python tests/benchmarks/examples.py --crawl runs/bench

In one process, by CPU time: all texts of some corpus shards through `EncodeAsIds`, one call for
each text or for many, and the same shards through `write_shard`, which also reads and checks
Parquet, cuts, permutes and writes records with checksums. Rounds alternate; ratios are medians of
the rounds' own. Corpus and vocabulary (32,000 ids) are built from the crawl once, beside it.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from crawl_data import write_crawl
from timing import ROOT, cpu_secs, mswitch, options

from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.examples.build import ExamplesConfig, plan_shards
from mswitch.pipelines.examples.shards import (
    ExampleShard,
    load_cached_vocabulary,
    measure_ids,
    write_shard,
)
from mswitch.pipelines.outputs import MARKER
from mswitch.pipelines.vocabulary.model import MODEL_FILE

DOCUMENTS_PER_CALL = 64
# Manuals have shorter paragraphs than the web pages that mC4's rules are for.
CORPUS_OPTIONS = (
    *("--min-lines", "3"),
    *("--min-long-line-characters", "40"),
    *("--language-threshold", "0.7"),
)


def prepare(crawl: Path) -> tuple[Path, Path]:
    """Build corpus and vocabulary; finished ones are reused."""
    if not (crawl / MARKER).exists():
        write_crawl(crawl, 300)
    corpus, vocabulary = crawl / "examples-corpus", crawl / "examples-vocabulary"
    commands = (
        mswitch("corpus", "build", "--input", f"{crawl}/wet/*", "--out", corpus, *CORPUS_OPTIONS),
        mswitch("vocab", "train", "--corpus", corpus, "--out", vocabulary, "--size", "32000"),
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return corpus, vocabulary


def choose(units: Sequence[ExampleShard], megabytes: float) -> tuple[list[ExampleShard], list]:
    """Shards of training text with so many megabytes of it (the first language's at least)."""
    chosen, texts, size = [], [], 0
    for unit in units:
        if unit.corpus_shard.split == "train" and size < megabytes * 1e6:
            chosen.append(unit)
            texts.append([document["text"] for document in unit.corpus_shard.documents()])
            size += sum(len(text.encode()) for text in texts[-1])
    return chosen, texts


def compare(
    units: Sequence[ExampleShard],
    texts: Sequence[Sequence[str]],
    model: str,
) -> None:
    """Print speeds by CPU time, and ratios to bare encoding."""
    vocabulary = load_cached_vocabulary(model)  # once in the life of a worker
    measure_ids(vocabulary)  # likewise, and for validation only

    def encode_each() -> None:
        for group in texts:
            for text in group:
                vocabulary.EncodeAsIds(text)

    def encode_many() -> None:
        for group in texts:
            for start in range(0, len(group), DOCUMENTS_PER_CALL):
                some = list(group[start : start + DOCUMENTS_PER_CALL])
                vocabulary.EncodeAsIds(some, num_threads=1)

    def write_all() -> None:
        with tempfile.TemporaryDirectory() as out:
            for unit in units:
                write_shard(unit, out, model=model, config=ExamplesConfig())

    jobs: dict[str, Callable[[], None]] = {
        "EncodeAsIds, one text a call": encode_each,
        "EncodeAsIds, many a call": encode_many,
        "write_shard": write_all,
    }
    secs = dict(zip(jobs, cpu_secs(*jobs.values()), strict=True))
    size = sum(len(text.encode()) for group in texts for text in group) / 1e6
    print(f"{size:.0f} MB of text in {len(units)} languages, CPU time of one process")
    for name, taken in secs.items():
        ratio = statistics.median(a / b for a, b in zip(taken, secs["write_shard"], strict=True))
        print(
            f"{name:30} {size / statistics.median(taken):6.1f} MB/s, "
            f"write_shard has {ratio:.0%} of its speed"
        )


def main() -> None:
    arguments = options(__doc__, crawl=ROOT / "runs" / "bench", megabytes=30.0)
    corpus, vocabulary = prepare(arguments.crawl)
    units, texts = choose(plan_shards(open_corpus(corpus)), arguments.megabytes)
    compare(units, texts, str(vocabulary / MODEL_FILE))


if __name__ == "__main__":
    main()
