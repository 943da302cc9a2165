"""Corpus and vocabulary to an examples directory: a seqio cache that is addressable by index.

One shard per corpus shard, so shard counts follow from bytes and nothing is shuffled between
workers. A finished shard leaves a description beside the output; after a kill, only shards without
one are done again, and give the same bytes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.corpus.reader import Corpus, open_corpus, open_shard
from mswitch.pipelines.corpus.rules.base import file_digest
from mswitch.pipelines.corpus.validation_split import say_without_validation
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
from mswitch.pipelines.examples.rehydration import read_weights
from mswitch.pipelines.examples.segments import Chain
from mswitch.pipelines.examples.shards import ExampleShard, ShardSettings, write_shard
from mswitch.pipelines.examples.span_corruption import SpanCorruption, span_corruption
from mswitch.pipelines.examples.ul2 import ul2
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.outputs import stage_output_anywhere
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import SPLITS
from mswitch.pipelines.runners import use_runner
from mswitch.pipelines.vocabulary.model import open_vocabulary

FEATURES = ("inputs", "targets")
#: Settings that are not noted where they are as they have always been.
_NEWER = ("weights", "objective", "validation_spans", "window_bytes")


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
        weights: a CSV, or its URL, of how often training documents come, by language and size of
            their cluster of near-duplicates, such as `mswitch corpus fit --weights` writes;
            empty for once.
        objective: `spans` is T5's span corruption; `ul2` draws one of UL2's seven denoisers for
            each segment, anew whenever it is read, says which by a token before the inputs, and
            freezes validation examples for each. noise_density and mean_noise_span_length are
            then UL2's.
        validation_spans: `tokens`, or `bytes`: validation spans and windows are chosen on raw text,
            the same for every vocabulary, and losses are compared in bits a byte.
        window_bytes: with `bytes`, the text of a validation example; as many bytes as
            inputs_length if 0, which fits any vocabulary.
    """

    inputs_length: Annotated[int, Ge(8)] = 1024
    noise_density: Annotated[float, Gt(0), Lt(1)] = 0.15
    mean_noise_span_length: Annotated[float, Ge(1)] = 3.0
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    separate_documents: bool = False
    validation_segments: Count | None = None
    chain: Chain = "lossless"
    finished: bool = False
    weights: str = ""
    objective: Literal["spans", "ul2"] = "spans"
    validation_spans: Literal["tokens", "bytes"] = "tokens"
    window_bytes: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        noise = self.noise_density, self.mean_noise_span_length
        if self.objective == "ul2" and noise != (0.15, 3.0):
            raise UserError(
                "--objective ul2 has noise of its own: leave --noise-density and "
                "--mean-noise-span-length out"
            )
        if self.chain == "t5" and self.separate_documents:
            raise UserError("--separate-documents: T5's chain puts nothing between documents")
        if self.validation_spans == "bytes" and self.objective == "ul2":
            raise UserError("--validation-spans bytes goes with --objective spans: leave one out")
        if 0 < self.window_bytes < 16:
            raise UserError(f"--window-bytes is {self.window_bytes}: give at least 16")
        if self.window_bytes and self.validation_spans == "tokens":
            raise UserError("--window-bytes goes with --validation-spans bytes: give that too")
        self.lengths()

    def features(self, split: str) -> tuple[str, ...]:
        """The features of a split that seqio reads."""
        return FEATURES if self.finished or split == "validation" else FEATURES[1:]

    def lengths(self) -> SpanCorruption:
        """The lengths that follow; UserError where the parameters do not fit together."""
        if self.objective == "ul2":
            return ul2(self.inputs_length)
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


def _longest_targets(config: ExamplesConfig, finished: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how long validation targets are, where that does not follow from other lengths."""
    counts = [shard["counts"] for shard in finished if shard["split"] == "validation"]
    if config.validation_spans == "tokens" or not counts:
        return {}
    return {"validation_targets_length": max(each["targets_max_tokens"] for each in counts)}


def _check_clustered(corpus: Corpus) -> None:
    with open_shard(corpus.shards[0].path) as shard:
        if "cluster_size" not in shard.schema_arrow.names:
            raise UserError(
                f"--weights: {corpus.directory} has no column cluster_size: build it with near-"
                "deduplication, such as with --profile modern"
            )


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
    if config.weights:
        _check_clustered(source)
    settings = {
        **dataclasses.asdict(config),
        "corpus": source.identity,
        "vocabulary": opened.sha256,
        "weights": config.weights and file_digest(config.weights, "the weights"),
    }
    for name in _NEWER:
        if getattr(config, name) == getattr(ExamplesConfig, name):
            del settings[name]
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
            read_weights(config.weights) if config.weights else None,
            window_bytes=(config.window_bytes or config.inputs_length)
            if config.validation_spans == "bytes"
            else 0,
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
                **{name: settings[name] for name in _NEWER if name in settings},
                **_longest_targets(config, finished),
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
