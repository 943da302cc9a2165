"""The phases of a corpus build as Beam transforms.

What goes from one to the next are numbers of shards (input files); pages and keys lie in the job's
work directory, where a step that was done is not repeated. Heavy work is done by `local_pool.call`:
by worker processes on mswitch's local runner, in place on an engine.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsSingleton, PCollection

from mswitch.pipelines.corpus import output_shards
from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.dedup.buckets import Shuffle, Slice
from mswitch.pipelines.corpus.dedup.fingerprint_store import FingerprintStore
from mswitch.pipelines.corpus.dedup.lines import LineDedup
from mswitch.pipelines.corpus.dedup.minimum_per_key import Chosen, MinimumPerKey
from mswitch.pipelines.corpus.dedup.near import NearDedup
from mswitch.pipelines.corpus.dedup.near_clusters import NearDuplicates
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.output_shards import ShardSpec
from mswitch.pipelines.corpus.shard_work import finish_shard, ingest_shard
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.local_pool import WorkerDiedError, call


class _OfJob(beam.PTransform):
    def __init__(self, job: Job):
        super().__init__()
        self.job = job


class IngestCrawl(_OfJob):
    """Read input files, apply the rules of ingest, store pages and their deduplication keys.

    Takes (number, file as a dict), gives numbers.
    """

    def expand(self, input_or_inputs: PCollection):
        return (
            input_or_inputs
            | "SpreadFiles" >> beam.Reshuffle()
            | "IngestFile" >> beam.MapTuple(partial(_ingest, job=self.job))
        )


def _ingest(shard: int, file: dict, job: Job) -> int:
    try:
        call(ingest_shard, shard, CrawlFile(**file), job)
    except WorkerDiedError as error:
        # Damaged input may abort a library; which of the files at work did so is not known.
        raise WorkerDiedError(
            f"while {file['path']} and perhaps others were read, {error}; if it dies again, leave "
            "the file out"
        ) from error
    return shard


class _ByKey(_OfJob):
    """A deduplication: shards in, shards out."""

    def __init__(self, job: Job, kind: type[Dedup], shuffle: Shuffle):
        super().__init__(job)
        self.shuffle = shuffle
        self.step: Any = job.recipe.first(kind)


class _KeepMinimum(_ByKey):
    """Of all candidates with one key, keep the minimum."""

    def expand(self, input_or_inputs: PCollection):
        rules = MinimumPerKey(self.step, self.job.work, self.shuffle)
        return (
            input_or_inputs
            | "SliceKeys" >> beam.FlatMap(_slices, rules)
            | "GroupByBucket" >> beam.GroupByKey()
            | "ChooseMinimum" >> beam.FlatMapTuple(partial(_choose, rules=rules))
            | "GroupByShard" >> beam.GroupByKey()
            | "RecordChosen" >> beam.MapTuple(partial(_record, rules=rules))
        )


class DeduplicateUrls(_KeepMinimum):
    """Choose one page of each normalised URL: shards in, shards out."""

    def __init__(self, job: Job, shuffle: Shuffle):
        super().__init__(job, UrlDedup, shuffle)


class OwnLines(_KeepMinimum):
    """Choose for each line the page that keeps it: shards in, shards out."""

    def __init__(self, job: Job, shuffle: Shuffle):
        super().__init__(job, LineDedup, shuffle)


def _counter(name: str, what: str) -> Any:
    return Metrics.counter("shuffle", f"{name}_{what}")


def _slices(shard: int, rules: MinimumPerKey | NearDuplicates) -> Iterator[tuple[int, Slice]]:
    """Yield a shard's candidates by bucket, and count the bytes that a shuffle has to move."""
    call(rules.prepare, shard)
    counter = _counter(rules.step.name, "bytes")
    for bucket, piece in rules.slices(shard):
        counter.inc((piece.stop - piece.start) * rules.step.width * 8)
        yield bucket, piece


def _choose(bucket: int, slices: Iterable[Slice], rules: MinimumPerKey) -> Iterator[Chosen]:
    """Yield what is chosen in a bucket, by shard."""
    counter = _counter(rules.step.name, "chosen")
    for shard, (start, size, bits) in call(rules.choose, list(slices)):
        counter.inc(size)
        yield shard, (start, size, bits)


def _record(shard: int, chosen: Iterable[Any], rules: MinimumPerKey | NearDuplicates) -> int:
    rules.record(shard, chosen)
    return shard


class ClusterNearDuplicates(_ByKey):
    """Find clusters of near-duplicates and choose who represents each: shards in, shards out."""

    def __init__(self, job: Job, shuffle: Shuffle):
        super().__init__(job, NearDedup, shuffle)

    def expand(self, input_or_inputs: PCollection):
        marks = self.job.recipe.marks_before(self.step)
        rules = NearDuplicates(self.step, self.job.work, self.shuffle, marks)
        recorded = (
            input_or_inputs
            | "SliceKeys" >> beam.FlatMap(_slices, rules)
            | "GroupByBucket" >> beam.GroupByKey()
            | "MatchBucket" >> beam.FlatMapTuple(partial(_packed_by, rules.match))
            | "GroupByLanguage" >> beam.GroupByKey()
            | "Cluster" >> beam.FlatMapTuple(partial(_packed_by, rules.cluster))
            | "GroupByShard" >> beam.GroupByKey()
            | "RecordSizes" >> beam.MapTuple(partial(_record, rules=rules))
            | "CountShards" >> beam.combiners.Count.Globally()
        )
        # A shard without matches gets nothing back; it continues once all sizes are there.
        return input_or_inputs | "Wait" >> beam.Map(lambda shard, _: shard, AsSingleton(recorded))  # pyright: ignore[reportArgumentType]


def _packed_by(
    work: Callable[[list[Any]], Iterable[tuple[int, bytes]]], _key: int, values: Iterable[Any]
) -> Iterator[tuple[int, bytes]]:
    """Yield what `match` finds in a bucket, by language, or `cluster` in a language, by shard."""
    counter = _counter(NearDedup.name, "bytes")
    for key, rows in call(work, list(values)):
        counter.inc(len(rows))
        yield key, rows


class FinishPages(_OfJob):
    """Drop duplicates, apply the rules of finish, leave documents: shards in, shards out."""

    def expand(self, input_or_inputs: PCollection):
        return input_or_inputs | "FinishShard" >> beam.Map(_finish, job=self.job)


def _finish(shard: int, job: Job) -> int:
    call(finish_shard, shard, job)
    return shard


class WriteShards(beam.PTransform):
    """Gather documents into output shards: Parquet by language and split.

    Takes numbers of shards; gives None for each output shard, which is noted in the work directory.

    Args:
        job: the job.
        specs: the output shards to write (`output_shards.plan_shards`).
        directory: the corpus.
        by_reference: whether workers read pieces of documents where they lie; otherwise documents
            are shuffled.
    """

    def __init__(self, job: Job, specs: Sequence[ShardSpec], directory: str, by_reference: bool):
        super().__init__()
        self.job, self.specs, self.directory = job, specs, directory
        self.by_reference = by_reference

    def expand(self, input_or_inputs: PCollection):
        options = {"directory": self.directory, "job": self.job}
        if self.by_reference:
            return (
                input_or_inputs.pipeline
                | "Shards" >> beam.Create(self.specs)
                | "SpreadShards" >> beam.Reshuffle()
                | "WriteShard" >> beam.Map(partial(call, output_shards.write_shard), **options)
            )
        # Without pieces: what a shard consists of, workers find in the runs.
        specs = {spec.name: dataclasses.replace(spec, pieces=()) for spec in self.specs}
        return (
            input_or_inputs
            | "CutRun" >> beam.FlatMap(output_shards.cut_run, list(specs.values()), self.job)
            | "GroupByOutput" >> beam.GroupByKey()
            | "WriteShard" >> beam.MapTuple(partial(_write_messages, specs=specs, **options))
        )


def _write_messages(
    name: str, messages: Iterable[bytes], specs: dict[str, ShardSpec], directory: str, job: Job
) -> None:
    """Write an output shard from the batches that were shuffled to it."""
    batches = [batch for message in messages for batch in pa.ipc.open_stream(message)]
    output_shards.write_documents(specs[name], batches, directory, job)


class WriteKeys(beam.PTransform):
    """Gather the keys of all documents into files of the corpus, for crawls to be added.

    Takes numbers of shards; gives None for each file, which is noted in the work directory.
    """

    def __init__(self, store: FingerprintStore):
        super().__init__()
        self.store = store

    def expand(self, input_or_inputs: PCollection):
        return (
            input_or_inputs
            | "SliceKeys" >> beam.FlatMap(self.store.slices)
            | "GroupByBucket" >> beam.GroupByKey()
            | "WriteBucket" >> beam.MapTuple(partial(_write_keys, store=self.store))
        )


def _write_keys(bucket: int, slices: Iterable[Slice], store: FingerprintStore) -> None:
    call(store.write, bucket, list(slices))
