"""Training batches of 107 languages: mswitch's own against seqio's `get_dataset`, same cache.

    python tests/benchmarks/batches.py --crawl runs/bench

The text of the crawl is dealt out to mC4's 107 codes, as many documents as rates of n ** 0.3 on its
page counts say, and built into full-length examples (1,024 inputs) once. Each side then runs in a
process of its own and reports start-up (imports, opening, the first batch), and examples a second
by wall clock and by CPU time. Rounds alternate. seqio uses as many tf.data threads as it likes; it
runs as its defaults have it (a shuffle buffer per language).
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples import prepare
from timing import ROOT, mswitch, options

ROUNDS = 3
BATCH_SIZE = 256
SECONDS = 10.0
DOCUMENTS = 40_000


def prepare_examples(crawl: Path) -> Path:
    """Build the examples of 107 languages beside the crawl; finished ones are reused."""
    from mswitch.pipelines.corpus.reader import open_corpus
    from mswitch.pipelines.languages import languages
    from mswitch.pipelines.vocabulary.train import compute_rates

    out = crawl / "batches-examples"
    if (out / "_COMPLETED").exists():
        return out
    corpus, vocabulary = prepare(crawl)
    documents = (
        document["text"]
        for shards in open_corpus(corpus).select("train").values()
        for shard in shards
        for document in shard.documents()
    )
    pages = {code: language.mc4_train_pages for code, language in languages().items()}
    texts = {
        code: {"train": [next(documents) for _ in range(round(rate * DOCUMENTS))]}
        for code, rate in compute_rates({code: n for code, n in pages.items() if n}, 0.3).items()
    }
    dealt = crawl / "batches-corpus"
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from corpus_files import write_corpus

    write_corpus(dealt, texts)
    words = ("--corpus", dealt, "--vocab", vocabulary, "--out", out)
    subprocess.run(mswitch("examples", "build", *words), check=True, cwd=ROOT)
    return out


def mswitch_side(examples: Path) -> dict[str, float]:
    """Figures of `mswitch.tasks.batches.training`."""
    begin = time.perf_counter()
    from mswitch.tasks.batches.training import TrainBatches

    batches = TrainBatches(examples, BATCH_SIZE, seed=0)
    batches.batch(0)
    started = time.perf_counter()
    steps = itertools.count(1)
    found = pace(lambda: len(batches.batch(next(steps))["language"]))
    return {"start_secs": started - begin, **found}


def seqio_side(examples: Path) -> dict[str, float]:
    """Figures of seqio's `get_dataset` over the mixture of the same tasks."""
    begin = time.perf_counter()
    import seqio

    import mswitch.tasks.seqio.pretrain  # noqa: F401 (registers)

    seqio.add_global_cache_dirs([str(examples)])
    dataset = seqio.get_mixture_or_task("mc4").get_dataset(
        {"inputs": 1024, "targets": 256}, split="train", use_cached=True
    )
    found = dataset.as_numpy_iterator()
    next(found)
    started = time.perf_counter()
    return {"start_secs": started - begin, **pace(lambda: bool(next(found)))}


def pace(produce: Callable[[], int]) -> dict[str, float]:
    """Call for some seconds; examples a second."""
    wall, cpu, examples = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < SECONDS:
        examples += produce()
    return {
        "per_sec": examples / (time.perf_counter() - wall),
        "per_cpu_sec": examples / (time.process_time() - cpu),
    }


SIDES: dict[str, Callable[[Path], dict[str, float]]] = {
    "mswitch": mswitch_side,
    "seqio": seqio_side,
}


def main() -> None:
    crawl = ROOT / "runs" / "bench"
    arguments = options(__doc__, crawl=crawl, side="", examples=Path(), rounds=ROUNDS)
    if arguments.side:  # a process that measures this side of --examples
        print(json.dumps(SIDES[arguments.side](arguments.examples)))
        return
    examples = prepare_examples(arguments.crawl)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, figures in found.items():
            command = [sys.executable, __file__, "--side", side, "--examples", str(examples)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    for side, figures in found.items():
        median = {name: statistics.median(one[name] for one in figures) for name in figures[0]}
        print(side, json.dumps({name: round(value, 3) for name, value in median.items()}))
    for name in ("per_sec", "per_cpu_sec"):
        pairs = zip(*found.values(), strict=True)
        ratio = statistics.median(ours[name] / theirs[name] for ours, theirs in pairs)
        print(f"examples {name}: x {ratio:.0f} of seqio's")


if __name__ == "__main__":
    main()
