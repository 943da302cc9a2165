"""The Beam jobs of a corpus build, each over the units of a work directory."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection, PValue

from pipelines import storage
from pipelines.corpus import steps
from pipelines.corpus.badwords import BadWords
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup import WIDTHS, Contest, bits_for, contest_bits
from pipelines.corpus.fingerprint_store import FingerprintStore
from pipelines.corpus.fingerprints import FINGERPRINT_BYTES
from pipelines.corpus.growth import Base
from pipelines.corpus.modern.contest import NAME as NEAR_DUPLICATES
from pipelines.corpus.modern.contest import NearDuplicates
from pipelines.corpus.modern.lists import write_lists
from pipelines.corpus.phase_progress import phase_progress
from pipelines.corpus.profiles import profile_of
from pipelines.corpus.sinks import ShardSpec, cut_run, plan_shards, write_documents
from pipelines.corpus.unit_accounts import Finished, Ingested, read_finished, read_ingested
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.crawl.files import CrawlFile
from pipelines.faults import fault_point
from pipelines.local_pool import available_cores
from pipelines.runners import run_pipeline

#: Runners on one machine, which shuffle in memory: what is large goes through files there, and
#: references to it through the shuffle.
RUNNERS_BY_REFERENCE = ("local",)
_FILES_PER_LIST = 1000


@dataclasses.dataclass(frozen=True)
class Build:
    """One build: what every phase needs to know.

    Attributes:
        files: the input; the position of a file is its unit.
        work: intermediate files.
        directory: where the corpus is written.
        config: what decides its bytes.
        runner: where pipelines run.
        beam_options: Beam's own options.
        base: the corpus that is added to, if it is one.
        badwords: lists of bad words, if pages are to be filtered by them.
    """

    files: tuple[CrawlFile, ...]
    work: WorkDirectory
    directory: str
    config: CorpusConfig
    runner: str
    beam_options: tuple[str, ...]
    base: Base | None = None
    badwords: BadWords | None = None

    @functools.cached_property
    def ingested(self) -> Ingested:
        """What phase 1 noted."""
        return read_ingested(self.work, len(self.files), self.config)

    @functools.cached_property
    def finished(self) -> Finished:
        """What phase 4 noted."""
        units = len(self.files)
        return read_finished(self.work, units, self.config, pieces=self._by_reference)

    def ingest(self) -> None:
        """Phase 1: one Parquet file of pages per input file."""
        sizes = {unit: file.size_bytes for unit, file in enumerate(self.files)}
        if not self._todo("pages"):
            return
        if self.config.profile == "modern":
            write_lists(self.config.modern, self.work)
        # Large files first: the last one to finish should not be the longest.
        order = sorted(sizes, key=lambda unit: -sizes[unit])
        lists = _write_file_lists(
            [[unit, dataclasses.asdict(self.files[unit])] for unit in order], self.work
        )

        def build(pipeline: beam.Pipeline) -> object:
            return (
                pipeline
                | "Lists" >> beam.Create(lists)
                # Workers read the list of files: as part of the job it could be too large for one.
                | "ReadList" >> beam.FlatMap(storage.read_json)
                | "SpreadFiles" >> beam.Reshuffle()
                | "IngestFile"
                >> beam.MapTuple(partial(steps.ingest, work=self.work, config=self.config))
            )

        with phase_progress(self.work, "ingest", sizes, "bytes", "pages"):
            self._run("ingest", build, len(self.files))

    def settle(self, contest: str) -> int:
        """Phases 2 and 3: settle who wins each URL, then who owns each line.

        Returns:
            How many bytes were shuffled (or referred to): fingerprints, and verdicts back.
        """
        marker = self.work.settled(contest)
        if storage.exists(marker):
            return storage.read_json(marker)["shuffled_bytes"]
        candidates = {"winners": self.ingested.pages, "owners": self.ingested.lines}[contest]
        bits = self._bits(contest, candidates, WIDTHS[contest] * 8)
        units = len(self.files)
        incumbents = self.base.incumbents(contest) if self.base else ()
        rules = Contest(
            contest,
            self.work,
            bits,
            self._by_reference,
            units,
            incumbents,
            self.config.rules().url_winner,
        )

        def build(pipeline: beam.Pipeline) -> object:
            return (
                self._units(pipeline, len(incumbents))
                | "SliceCandidates" >> beam.FlatMap(steps.slices, rules)
                | "GroupByBucket" >> beam.GroupByKey()
                | "SettleBucket" >> beam.FlatMapTuple(partial(steps.settle, contest=rules))
                | "GroupByUnit" >> beam.GroupByKey()
                | "RecordVerdicts" >> beam.MapTuple(rules.record)
            )

        with phase_progress(
            self.work, contest, dict.fromkeys(range(len(self.files)), 1), "files", contest
        ):
            counters = self._run(contest, build, len(self.files))
        # A bit for each candidate: the same however they are cut into buckets.
        verdict_bytes = -(-counters.get(f"{contest}_verdicts", 0) // 8)
        shuffled = counters.get(f"{contest}_bytes", 0) + verdict_bytes
        storage.write_json(
            marker,
            {"candidates": candidates, "bucket_bits": bits, "shuffled_bytes": shuffled},
            scratch=True,
        )
        fault_point(f"corpus.after_{contest}")
        return shuffled

    def settle_all(self) -> dict[str, int]:
        """Settle every contest of the profile; return the bytes that each shuffled."""
        return {
            name: self.settle_near_duplicates() if name == NEAR_DUPLICATES else self.settle(name)
            for name in profile_of(self.config).contests
        }

    def settle_near_duplicates(self) -> int:
        """Phase 3 of profile `modern`: find clusters of near-duplicates, choose who stays.

        Returns:
            How many bytes were shuffled (or referred to): fingerprints, matches, sizes of clusters.
        """
        marker = self.work.settled(NEAR_DUPLICATES)
        if storage.exists(marker):
            return storage.read_json(marker)["shuffled_bytes"]
        bands = self.config.modern.minhash.bands
        bits = self._bits(NEAR_DUPLICATES, self.ingested.pages * bands, 24)
        units = len(self.files)
        incumbents = self.base.incumbents(NEAR_DUPLICATES) if self.base else ()
        rules = NearDuplicates(self.work, bits, self._by_reference, bands, units, incumbents)

        def build(pipeline: beam.Pipeline) -> object:
            return (
                self._units(pipeline, len(incumbents))
                | "SliceCandidates" >> beam.FlatMap(steps.near_slices, rules)
                | "GroupByBucket" >> beam.GroupByKey()
                | "MatchBucket" >> beam.FlatMapTuple(partial(steps.match, rules=rules))
                | "GroupByLanguage" >> beam.GroupByKey()
                | "Cluster" >> beam.FlatMapTuple(partial(steps.cluster, rules=rules))
                | "GroupByUnit" >> beam.GroupByKey()
                | "RecordSizes" >> beam.MapTuple(rules.record)
            )

        counters = self._run(NEAR_DUPLICATES, build, len(self.files))
        shuffled = counters.get(f"{NEAR_DUPLICATES}_bytes", 0)
        storage.write_json(marker, {"bucket_bits": bits, "shuffled_bytes": shuffled}, scratch=True)
        fault_point("corpus.after_near_duplicates")
        return shuffled

    def finish(self) -> None:
        """Phase 4: decide on every page, identify languages, leave sorted runs."""
        if not self._todo("finished"):
            return
        sizes = dict(enumerate(self.ingested.text_bytes))

        def build(pipeline: beam.Pipeline) -> object:
            return self._units(pipeline) | "FinishUnit" >> beam.Map(
                steps.finish, work=self.work, config=self.config, badwords=self.badwords
            )

        with phase_progress(self.work, "languages", sizes, "bytes", "finished"):
            self._run("finish", build, len(self.files))

    def write(self) -> tuple[list[ShardSpec], list[dict[str, Any]]]:
        """Phase 5: gather the runs of all units into output shards, and the keys of all documents.

        Returns:
            The shards, and the manifest entries of the files with keys.
        """
        prefix, existing = "", {}
        if self.base:
            prefix, existing = self.base.prefix, self.base.validation_documents()
        shards = plan_shards(
            self.finished.languages, self.config, prefix=prefix, validation_documents=existing
        )
        kinds = profile_of(self.config).fingerprints
        stores = [self._store(kind) for kind in kinds] if self.config.keep_fingerprints else []
        done = self.work.names("shards")
        todo = [shard for shard in shards if f"{shard.name}.json" not in done]
        stores_todo = [store for store in stores if not store.complete()]

        def build(pipeline: beam.Pipeline) -> object:
            units = self._units(pipeline)
            written = [self._write_shards(units, todo)] if todo else []
            return written + [_write_keys(units, store) for store in stores_todo]

        names = {number: shard.name for number, shard in enumerate(shards)}
        weights = dict.fromkeys(names, 1)
        files = len(todo) + sum(store.buckets for store in stores_todo)
        if files:
            with phase_progress(self.work, "shards", weights, "files", "shards", names):
                self._run("shards", build, files)
        if not self._by_reference:
            # Nothing is shuffled to a shard whose part of the id space has no document.
            written = self.work.names("shards")
            for shard in todo:
                if f"{shard.name}.json" not in written:
                    write_documents(shard, [], self.directory, self.work)
        return shards, [entry for store in stores for entry in store.described()]

    def _write_shards(self, units: PCollection[int], shards: Sequence[ShardSpec]) -> PValue:
        options = {"directory": self.directory, "work": self.work}
        if self._by_reference:
            return (
                units.pipeline
                | "Shards" >> beam.Create(shards)
                | "SpreadShards" >> beam.Reshuffle()
                | "WriteShard" >> beam.Map(steps.write_shard, config=self.config, **options)
            )
        # Without pieces: what a shard consists of, workers find in the runs.
        specs = {shard.name: dataclasses.replace(shard, pieces=()) for shard in shards}
        return (
            units
            | "CutRun" >> beam.FlatMap(cut_run, list(specs.values()), self.work, self.config)
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteShard" >> beam.MapTuple(partial(steps.write_messages, specs=specs, **options))
        )

    def kept_bytes(self) -> dict[str, int]:
        """How many bytes phase 5 shuffles (or refers to) for each kind of key."""
        if not self.config.keep_fingerprints:
            return {}
        kinds = profile_of(self.config).fingerprints
        return {f"kept_{kind}": self.finished.keys[kind] * FINGERPRINT_BYTES for kind in kinds}

    def _store(self, kind: str) -> FingerprintStore:
        return FingerprintStore(
            kind,
            self.work,
            self.directory,
            self.base.prefix if self.base else "",
            bits_for(self.finished.keys[kind] * FINGERPRINT_BYTES, self.config.bucket_bytes),
            self._by_reference,
        )

    def _bits(self, contest: str, candidates: int, size: int) -> int:
        """Return into how many buckets a contest is cut, as a power of two.

        A bucket holds the fingerprints of the corpus that is added to as well: most of it, once a
        corpus is large.
        """
        rows = candidates + (self.base.keys(contest) if self.base else 0)
        return contest_bits(rows * size, self.config.bucket_bytes)

    @property
    def _by_reference(self) -> bool:
        return self.runner in RUNNERS_BY_REFERENCE

    def _todo(self, kind: str) -> bool:
        done = self.work.names(kind)
        return any(f"{unit:06d}.json" not in done for unit in range(len(self.files)))

    def _units(self, pipeline: beam.Pipeline, more: int = 0) -> PCollection[int]:
        """Return the numbers of all units (and of `more`), spread over the workers.

        Steps skip what is done.
        """
        total = len(self.files) + more
        return (
            pipeline
            | "UnitRanges" >> beam.Create(range(0, total, _FILES_PER_LIST))
            | "Units" >> beam.FlatMap(lambda n: range(n, min(n + _FILES_PER_LIST, total)))
            | "SpreadUnits" >> beam.Reshuffle()
        )

    def _run(
        self, phase: str, build: Callable[[beam.Pipeline], object], items: int
    ) -> dict[str, int]:
        """Run a phase; return its counters."""
        name = f"mswitch-corpus-{phase}"
        if self.runner == "dataflow":
            # Dataflow runs one job of a name at a time: one for each corpus.
            name += "-" + hashlib.sha256(self.directory.encode()).hexdigest()[:8]
        workers = min(items, available_cores())
        return run_pipeline(build, self.runner, self.beam_options, job_name=name, workers=workers)


def _write_keys(units: PCollection[int], store: FingerprintStore) -> PValue:
    return (
        units
        | f"SliceKeys-{store.kind}" >> beam.FlatMap(store.slices)
        | f"GroupByBucket-{store.kind}" >> beam.GroupByKey()
        | f"WriteKeys-{store.kind}" >> beam.MapTuple(partial(steps.write_keys, store=store))
    )


def _write_file_lists(files: Sequence[list], work: WorkDirectory) -> list[str]:
    """Write the input files, in this order, as JSON lists of bounded length; return the paths."""
    paths = []
    for start in range(0, len(files), _FILES_PER_LIST):
        path = storage.join(work.root, f"files-{start:06d}.json")
        storage.write_json(path, files[start : start + _FILES_PER_LIST], scratch=True)
        paths.append(path)
    return paths
