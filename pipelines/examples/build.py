"""Corpus and vocabulary to an examples directory: a seqio cache that is addressable by index.

One shard per corpus shard, so shard counts follow from bytes and nothing is shuffled between
workers. A finished shard leaves a description beside the output; after a kill, only shards without
one are done again, and give the same bytes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.reader import Corpus, open_corpus, say_without_validation
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import (
    STAGE,
    TOKENS,
    describe,
    shard_store,
    summary_of,
    write_cache_metadata,
    write_missing,
    write_vocabulary,
)
from mswitch.pipelines.examples.segments import Chain
from mswitch.pipelines.examples.shards import ExampleShard, ShardSettings, write_shard
from mswitch.pipelines.examples.span_corruption import SpanCorruption, span_corruption
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.outputs import stage_output_anywhere
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import SPLITS
from mswitch.pipelines.runners import use_runner
from mswitch.pipelines.validation import Count, check_fields
from mswitch.pipelines.vocabulary.model import open_vocabulary

FEATURES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class ExamplesConfig:
    """Settings of examples; the defaults are mT5's.

    Attributes:
        inputs_length: encoder positions; lengths of segments and targets follow from it.
        noise_density: share of tokens that are masked.
        mean_noise_span_length: mean tokens of a masked span.
        seed: seed of frozen validation masks and of the order of training segments.
        separate_documents: put an EOS after each document of a training stream (T5 does not).
        validation_segments: evaluate at most so many segments of a document, its first ones;
            None for all.
        chain: how documents become training segments: `lossless` joins those of a shard and
            loses nothing; `t5` takes one chunk of 65,536 tokens from each and joins 128, as T5.
        finished: corrupt training segments now, so that every epoch has the same masks, and not
            anew each time they are read.
    """

    inputs_length: Annotated[int, Ge(8)] = 1024
    noise_density: Annotated[float, Gt(0), Lt(1)] = 0.15
    mean_noise_span_length: Annotated[float, Ge(1)] = 3.0
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    separate_documents: bool = False
    validation_segments: Count | None = None
    chain: Chain = "lossless"
    finished: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.chain == "t5" and self.separate_documents:
            raise UserError("--separate-documents: T5's chain puts nothing between documents")
        self.lengths()

    def features(self, split: str) -> tuple[str, ...]:
        """The features of a split that seqio reads."""
        return FEATURES if self.finished or split == "validation" else FEATURES[1:]

    def lengths(self) -> SpanCorruption:
        """The lengths that follow; UserError where the parameters do not fit together."""
        return span_corruption(self.inputs_length, self.noise_density, self.mean_noise_span_length)


def plan_shards(corpus: Corpus) -> list[ExampleShard]:
    """Return one shard per corpus shard, numbered within its language and split."""
    planned = []
    for split in SPLITS:
        for shards in corpus.select(split).values():
            planned += [
                ExampleShard(shard, number, len(shards)) for number, shard in enumerate(shards)
            ]
    return planned


def build_examples(
    corpus: str | Path,
    vocabulary: str | Path,
    out: str | Path,
    config: ExamplesConfig,
    *,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the examples directory.

    Args:
        corpus: a finished corpus directory, or its URL.
        vocabulary: a finished vocabulary directory, or a SentencePiece model file in T5's layout.
        out: where to write, or a URL such as gs://bucket/examples.
        config: lengths, noise and seed.
        runner: where tasks are done (`mswitch.pipelines.runners`); its workers must see `out`.
        beam_options: Beam's own options.
    """
    use_runner(runner, beam_options)
    source = open_corpus(corpus)
    opened = open_vocabulary(vocabulary)
    settings = {
        **dataclasses.asdict(config),
        "corpus": source.identity,
        "vocabulary": opened.sha256,
    }
    with stage_output_anywhere(out, stage=STAGE, config=settings) as staged:
        store = shard_store(staged)
        if staged.complete:
            storage.remove_tree(store.descriptions)
            say(STAGE, f"already complete: {out}, nothing to do")
            return summary_of(out, SPLITS, reused=True)
        source.say_left_out(STAGE)
        model = write_vocabulary(store.directory, opened)
        lengths = config.lengths()
        shard_settings = ShardSettings(
            lengths,
            config.seed,
            config.separate_documents,
            config.validation_segments,
            config.chain,
            config.finished,
        )
        engine = Engine(STAGE, str(staged.out), staged.hash, runner, tuple(beam_options))
        write = functools.partial(write_shard, model=model, settings=shard_settings)
        finished = write_missing(plan_shards(source), store, write, engine, "shards")
        described = describe(finished, store.directory)
        if not any("train" in splits for splits in described.values()):
            raise UserError(f"{corpus} has no training text: add input")
        features = {split: dict.fromkeys(config.features(split), TOKENS) for split in SPLITS}
        write_cache_metadata(finished, described, store.directory, features)
        staged.publish(
            {
                "vocabulary_size": opened.size,
                **dataclasses.asdict(lengths),
                "vocabulary_sha256": opened.model_sha256,
                "finished": config.finished,
                "languages": described,
            }
        )
        storage.remove_tree(store.descriptions)
    say_without_validation(STAGE, described)
    summary = summary_of(out, SPLITS, reused=False)
    say(
        STAGE,
        f"{summary['train_records']:,} training and {summary['validation_records']:,} validation "
        f"records in {summary['languages']} languages in {out}",
    )
    return summary
