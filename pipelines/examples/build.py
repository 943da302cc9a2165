"""Corpus and vocabulary to an examples directory: a seqio cache that is addressable by index.

One shard per corpus shard, so shard counts follow from bytes and nothing is shuffled between
workers. A finished shard leaves a description beside the output; after a kill, only shards without
one are done again, and give the same bytes.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from pipelines import storage
from pipelines.corpus.reader import Corpus, open_corpus, say_without_validation
from pipelines.errors import UserError
from pipelines.examples.segments import Chain
from pipelines.examples.shard_store import ShardStore
from pipelines.examples.shards import ExampleShard, ShardSettings
from pipelines.examples.span_corruption import SpanCorruption, span_corruption
from pipelines.examples.tfrecord import index_path
from pipelines.languages import task_name
from pipelines.outputs import (
    RemoteOutput,
    StagedOutput,
    read_manifest,
    stage_output_anywhere,
    write_atomically,
)
from pipelines.progress import say
from pipelines.records import SPLITS
from pipelines.runners import pipeline_options
from pipelines.validation import Count, check_fields
from pipelines.vocabulary.model import MODEL_FILE, open_vocabulary

STAGE = "examples"
#: The seqio whose cache layout is written.
SEQIO_VERSION = "0.0.20"
FEATURES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class ExamplesConfig:
    """Settings of examples; the defaults are mT5's.

    Attributes:
        inputs_length: encoder positions; lengths of segments and targets follow from it.
        noise_density: share of tokens that are masked.
        mean_noise_span_length: mean tokens of a masked span.
        seed: of frozen validation masks and of the order of training segments.
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
        runner: where the Beam job runs (`pipelines.runners`); its workers must see `out`.
        beam_options: Beam's own options.

    Raises:
        UserError: an input is missing, unfinished or damaged, or `out` cannot be used.
    """
    options = pipeline_options(runner, beam_options)  # complains before any work is done
    storage.use_options(options.get_all_options(drop_default=True))
    source = open_corpus(corpus)
    opened = open_vocabulary(vocabulary)
    settings = {
        **dataclasses.asdict(config),
        "corpus": source.identity,
        "vocabulary": opened.sha256,
    }
    with stage_output_anywhere(out, stage=STAGE, config=settings) as staged:
        store = _shard_store(staged)
        if staged.complete:
            storage.remove_tree(store.descriptions)
            say(STAGE, f"already complete: {out}, nothing to do")
            return _summary(out, reused=True)
        source.say_left_out(STAGE)
        model = storage.join(store.directory, "vocabulary", MODEL_FILE)
        storage.make_directory(storage.join(store.directory, "vocabulary"))
        write_atomically(model, opened.model)
        lengths = config.lengths()
        planned = plan_shards(source)
        finished = _write_shards(planned, store, model, config, staged.hash, runner, beam_options)
        described = _describe(finished, store.directory)
        if not any("train" in splits for splits in described.values()):
            raise UserError(f"{corpus} has no training text: add input")
        _write_cache_metadata(finished, described, store.directory, config)
        staged.publish(
            {
                "vocabulary_size": opened.size,
                **dataclasses.asdict(lengths),
                "vocabulary_sha256": hashlib.sha256(opened.model).hexdigest(),
                "finished": config.finished,
                "languages": described,
            }
        )
        storage.remove_tree(store.descriptions)
    say_without_validation(STAGE, described)
    summary = _summary(out, reused=False)
    say(
        STAGE,
        f"{summary['train_records']:,} training and {summary['validation_records']:,} validation "
        f"records in {summary['languages']} languages in {out}",
    )
    return summary


def _shard_store(staged: StagedOutput | RemoteOutput) -> ShardStore:
    """Descriptions lie beside a local output, and leave no trace in it; in a bucket, within."""
    directory = str(staged.directory)
    if storage.is_remote(directory):
        return ShardStore(directory, storage.join(directory, "_units"))
    return ShardStore(directory, f"{directory}.units")


def _write_shards(
    planned: Sequence[ExampleShard],
    store: ShardStore,
    model: str,
    config: ExamplesConfig,
    identity: str,
    runner: str,
    beam_options: Sequence[str],
) -> list[dict[str, Any]]:
    """Write what an earlier run did not finish; describe all, in the order of `planned`."""
    from pipelines.examples.pipeline import write_shards

    before = store.finished(planned)
    todo = [shard for shard, found in zip(planned, before, strict=True) if found is None]
    say(STAGE, f"{len(planned) - len(todo):,} of {len(planned):,} shards are there already")
    shard_settings = ShardSettings(
        config.lengths(),
        config.seed,
        config.separate_documents,
        config.validation_segments,
        config.chain,
        config.finished,
    )
    if todo:
        write_shards(
            todo, len(planned), store, model, shard_settings, identity, runner, beam_options
        )
    described = store.finished(planned)
    missing = [shard.path for shard, found in zip(planned, described, strict=True) if found is None]
    if missing:
        raise UserError(
            f"the Beam job ended without {len(missing)} shards ({missing[0]} ...): does every "
            f"worker see {store.directory}? Run the same command again; it continues"
        )
    return [found for found in described if found is not None]


def _describe(finished: Sequence[dict[str, Any]], directory: str) -> dict[str, Any]:
    """`languages` of the manifest; a split without any record is removed and left out."""
    languages: dict[str, dict[str, Any]] = {}
    for shard in finished:
        entry = languages.setdefault(shard["lang"], {}).setdefault(
            shard["split"], {"records": 0, "tokens": 0, "documents": 0, "bytes": 0, "shards": []}
        )
        entry["records"] += shard["records"]
        for name in ("tokens", "documents", "bytes"):
            entry[name] += shard["counts"][name]
        entry["shards"].append(
            {
                "path": shard["path"],
                "records": shard["records"],
                "bytes": shard["size_bytes"],
                "sha256": shard["sha256"],
            }
        )
    for lang, splits in list(languages.items()):
        for split in [name for name, entry in splits.items() if not entry["records"]]:
            paths = [
                storage.join(directory, shard["path"]) for shard in splits.pop(split)["shards"]
            ]
            named = [*paths, *map(index_path, paths)]
            storage.remove([path for path in named if storage.exists(path)])
        if not splits:
            storage.remove_tree(storage.join(directory, task_name(lang)))
            del languages[lang]
    return languages


def _write_cache_metadata(
    finished: Sequence[dict[str, Any]],
    described: dict[str, Any],
    directory: str,
    config: ExamplesConfig,
) -> None:
    """Write info, stats and COMPLETED of every task, as seqio's own caching does."""
    for lang, splits in described.items():
        task = storage.join(directory, task_name(lang))
        for split, entry in splits.items():
            features = config.features(split)
            info = {
                "num_shards": len(entry["shards"]),
                "features": {name: {"shape": [None], "dtype": "int32"} for name in features},
                "seqio_version": SEQIO_VERSION,
            }
            counts = [
                shard["counts"]
                for shard in finished
                if shard["lang"] == lang and shard["split"] == split
            ]
            stats = {"examples": entry["records"]}
            for name in features:
                stats[f"{name}_tokens"] = sum(count[f"{name}_tokens"] for count in counts)
                stats[f"{name}_max_tokens"] = max(count[f"{name}_max_tokens"] for count in counts)
            storage.write_json(storage.join(task, f"info.{split}.json"), info)
            storage.write_json(storage.join(task, f"stats.{split}.json"), stats)
        write_atomically(storage.join(task, "COMPLETED"), b"")


def _summary(out: str | Path, *, reused: bool) -> dict[str, Any]:
    manifest = read_manifest(out, STAGE)
    counts: dict[str, Any] = {}
    for split in SPLITS:
        entries = [splits[split] for splits in manifest["languages"].values() if split in splits]
        counts[f"{split}_records"] = sum(entry["records"] for entry in entries)
        counts[f"{split}_tokens"] = sum(entry["tokens"] for entry in entries)
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "languages": len(manifest["languages"]),
        **counts,
    }
