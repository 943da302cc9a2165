"""What the steps of a build's Beam jobs do (pipelines.corpus.phases).

The work is done by `local_pool.call`: by worker processes on the local runner, in place on an
engine.
"""

from collections.abc import Iterable, Iterator

from apache_beam.metrics.metric import Metrics

from pipelines.corpus import sinks
from pipelines.corpus.badwords import BadWords
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup import WIDTHS, Contest, Slice, Verdict
from pipelines.corpus.fingerprint_store import FingerprintStore
from pipelines.corpus.finish import finish_unit
from pipelines.corpus.ingest import ingest_unit
from pipelines.corpus.modern.contest import NAME as NEAR_DUPLICATES
from pipelines.corpus.modern.contest import NearDuplicates
from pipelines.corpus.sinks import ShardSpec, join_batches
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.crawl.files import CrawlFile
from pipelines.local_pool import call


def ingest(unit: int, file: dict, work: WorkDirectory, config: CorpusConfig) -> None:
    """Ingest a file: `ingest_unit`."""
    call(ingest_unit, unit, CrawlFile(**file), work, config)


def slices(unit: int, contest: Contest) -> Iterator[tuple[int, Slice]]:
    """Yield a unit's candidates by bucket, and count the bytes that a shuffle has to move."""
    call(contest.prepare, unit)
    counter = Metrics.counter("shuffle", f"{contest.name}_bytes")
    for bucket, piece in contest.slices(unit):
        counter.inc((piece.stop - piece.start) * WIDTHS[contest.name] * 8)
        yield bucket, piece


def near_slices(unit: int, rules: NearDuplicates) -> Iterator[tuple[int, Slice]]:
    """Yield a unit's band keys by bucket, and count the bytes that a shuffle has to move."""
    call(rules.prepare, unit)
    counter = Metrics.counter("shuffle", f"{NEAR_DUPLICATES}_bytes")
    for bucket, piece in rules.slices(unit):
        counter.inc((piece.stop - piece.start) * 24)
        yield bucket, piece


def _counted(packed: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[int, bytes]]:
    counter = Metrics.counter("shuffle", f"{name}_bytes")
    for key, rows in packed:
        counter.inc(len(rows))
        yield key, rows


def match(
    bucket: int, slices: Iterable[Slice], rules: NearDuplicates
) -> Iterator[tuple[int, bytes]]:
    """Yield the matches in a bucket by language."""
    del bucket
    yield from _counted(call(rules.match, list(slices)), NEAR_DUPLICATES)


def cluster(
    lang: int, packed: Iterable[bytes], rules: NearDuplicates
) -> Iterator[tuple[int, bytes]]:
    """Yield what is decided about a language's clusters, by unit."""
    del lang
    yield from _counted(call(rules.cluster, list(packed)), NEAR_DUPLICATES)


def settle(bucket: int, slices: Iterable[Slice], contest: Contest) -> Iterator[Verdict]:
    """Yield the verdicts of a bucket, by unit."""
    del bucket
    counter = Metrics.counter("shuffle", f"{contest.name}_verdicts")
    for unit, (start, size, bits) in call(contest.settle, list(slices)):
        counter.inc(size)
        yield unit, (start, size, bits)


def finish(unit: int, work: WorkDirectory, config: CorpusConfig, badwords: BadWords | None) -> None:
    """Finish a unit: `finish_unit`."""
    call(finish_unit, unit, work, config, badwords)


def write_shard(spec: ShardSpec, directory: str, work: WorkDirectory, config: CorpusConfig) -> None:
    """Gather a shard from runs and write it."""
    call(sinks.write_shard, spec, directory, work, config)


def write_keys(bucket: int, slices: Iterable[Slice], store: FingerprintStore) -> None:
    """Write a file of the keys that the corpus keeps."""
    call(store.write, bucket, list(slices))


def write_messages(
    name: str,
    messages: Iterable[bytes],
    specs: dict[str, ShardSpec],
    directory: str,
    work: WorkDirectory,
) -> None:
    """Write a shard from the batches that were shuffled to it."""
    sinks.write_documents(specs[name], join_batches(messages), directory, work)
