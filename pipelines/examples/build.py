"""Builds an examples directory from corpus and vocabulary: a seqio cache with access by index.

Each corpus shard becomes one shard, so the number of shards follows from bytes, and nothing is
shuffled between workers. After a kill, only unfinished shards are rewritten, with the same bytes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.reader import Corpus, check_clustered, open_corpus
from mswitch.pipelines.corpus.rules.base import file_digest
from mswitch.pipelines.corpus.validation_split import say_without_validation
from mswitch.pipelines.dataflow_prices import UNLIMITED, Cost
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.config import ExamplesConfig
from mswitch.pipelines.examples.directory import (
    NOTES,
    STAGE,
    TOKENS,
    publish,
    summarize_examples,
    working_files,
    write_missing,
    write_vocabulary,
)
from mswitch.pipelines.examples.shards import ExampleShard, write_shard
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import stage_output_anywhere
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import SPLITS
from mswitch.pipelines.runners import use_runner
from mswitch.pipelines.vocabulary.model import open_vocabulary

#: Settings at the top level of the manifest, unless they are at their default.
_NOTED = ("weights", "objective", "validation_spans", "window_bytes")


def plan_shards(corpus: Corpus) -> list[ExampleShard]:
    """Return one shard per corpus shard, numbered within its language and split."""
    return [
        ExampleShard(shard, number, len(shards))
        for split in SPLITS
        for shards in corpus.select(split).values()
        for number, shard in enumerate(shards)
    ]


def _find_longest_targets(
    config: ExamplesConfig, finished: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """Return the longest validation targets' length as a dict, or {} if the config sets it."""
    counts = [shard["counts"] for shard in finished if shard["split"] == "validation"]
    if config.validation_spans == "tokens" or not counts:
        return {}
    return {"validation_targets_length": max(each["targets_max_tokens"] for each in counts)}


def build_examples(
    corpus: str | Path,
    vocabulary: str | Path,
    out: str | Path,
    config: ExamplesConfig,
    *,
    runner: str = "local",
    beam_options: Sequence[str] = (),
    cost: Cost = UNLIMITED,
) -> dict[str, Any]:
    """Write the examples directory.

    Args:
        corpus: path or URL of a finished corpus directory.
        vocabulary: a finished vocabulary directory, or a SentencePiece model file in T5's layout.
        out: the directory to make, or a URL such as gs://bucket/examples.
        config: lengths, noise and seed.
        runner: where tasks run (`mswitch.pipelines.runners`); its workers must see `out`.
        beam_options: Beam's own options.
        cost: limit of what the build may cost on Dataflow.
    """
    use_runner(runner, beam_options, cost)
    source = open_corpus(corpus)
    opened = open_vocabulary(vocabulary)
    if config.weights:
        check_clustered(source, config.cluster_size)
    settings = {
        **identifying_settings(config),
        "corpus": source.identity,
        "vocabulary": opened.sha256,
    }
    if config.weights:
        settings["weights"] = file_digest(config.weights, "the weights")
    with stage_output_anywhere(out, stage=STAGE, config=settings) as staged:
        directory = str(staged.directory)
        if staged.complete:
            storage.remove_tree(working_files(directory, NOTES))
            say(STAGE, f"already complete: {out}, nothing to do")
            return summarize_examples(out, SPLITS, reused=True)
        source.say_left_out(STAGE)
        meters = storage.join(working_files(directory, NOTES), "meters")
        given = (runner, tuple(beam_options), cost, meters)
        engine = Engine(STAGE, str(staged.out), staged.hash, *given)
        write = functools.partial(
            write_shard,
            model=write_vocabulary(directory, opened),
            config=config,
            rehydration=config.read_rehydration(),
        )
        finished = write_missing(plan_shards(source), directory, write, engine, "shards")
        if not any(shard["split"] == "train" and shard["records"] for shard in finished):
            raise UserError(f"{corpus} has no training text: add input")
        features = {split: dict.fromkeys(config.features(split), TOKENS) for split in SPLITS}
        said = {
            **dataclasses.asdict(config.lengths()),
            "finished": config.finished,
            **{name: settings[name] for name in _NOTED if name in settings},
            **_find_longest_targets(config, finished),
        }
        languages = publish(staged, finished, opened, features, said)
    say_without_validation(STAGE, languages)
    summary = summarize_examples(out, SPLITS, reused=False)
    say(
        STAGE,
        f"{summary['train_records']:,} training and {summary['validation_records']:,} validation "
        f"records in {summary['languages']} languages in {out}",
    )
    return summary
