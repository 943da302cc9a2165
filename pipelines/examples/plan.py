"""Estimates the cost of making examples, by making one shard."""

import tempfile
import time
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.dataflow_prices import Phase, read_prices
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import plan_shards
from mswitch.pipelines.examples.config import ExamplesConfig
from mswitch.pipelines.examples.directory import write_vocabulary
from mswitch.pipelines.examples.shards import ExampleShard, write_shard
from mswitch.pipelines.local_pool import call_each, local_pool
from mswitch.pipelines.vocabulary.model import open_vocabulary


def _time_shard(given: tuple[ExampleShard, str, ExamplesConfig]) -> float:
    """Make a shard twice in this process; return the CPU seconds that the second time took."""
    shard, vocabulary, config = given
    secs = 0.0
    with tempfile.TemporaryDirectory(prefix="mswitch-plan-") as directory:
        model = write_vocabulary(directory, open_vocabulary(vocabulary))
        weights = config.read_rehydration()
        for _ in range(2):  # The first round also loads the vocabulary, so only the second counts.
            before = time.process_time()
            write_shard(shard, directory, model=model, config=config, rehydration=weights)
            secs = time.process_time() - before
    return secs


def plan_examples(
    corpus: str, vocabulary: str, config: ExamplesConfig, *, workers: int = 1, prices: str = ""
) -> dict[str, Any]:
    """Estimate time and cost of building training examples.

    For `corpus`, `vocabulary` and `config` see `build_examples`. `workers` is the number of
    parallel worker processes; on Dataflow, one per vCPU. `prices` is a table of unit prices;
    default: `mswitch.pipelines.dataflow_prices`.

    Returns:
        Figures by name; those that follow from the sample are in `estimated`.
    """
    if workers < 1:
        raise UserError("give at least one worker")
    table = read_prices(prices)
    shards = sorted(plan_shards(open_corpus(corpus)), key=lambda shard: shard.size_bytes)
    middle, size = shards[len(shards) // 2], sum(shard.size_bytes for shard in shards)
    with local_pool(1):
        [secs] = call_each(_time_shard, [(middle, vocabulary, config)])
    cpu_secs = secs * size / middle.size_bytes
    count = len(shards)
    # Each task writes a shard, its index and its note, and reads a shard of the corpus.
    phase = Phase(cpu_secs, count, 3 * count, 4 * count)
    return {
        "stage": "examples-plan",
        "shards": count,
        "bytes_in": size,
        "sampled": storage.get_name(middle.corpus_shard.path),
        "workers": workers,
        "estimated": {
            "cpu_hours": round(cpu_secs / 3600, 4),
            "wall_hours": round(cpu_secs / 3600 / min(workers, count), 4),
            "dataflow": table.estimate({"shards": phase}, workers),
        },
    }
