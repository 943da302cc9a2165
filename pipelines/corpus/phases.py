"""The Beam jobs of a corpus build, one a phase, each over the shards of a work directory."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.append import Base
from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.dedup.buckets import Shuffle, bits_for, shared_bits
from mswitch.pipelines.corpus.dedup.fingerprint_store import FingerprintStore
from mswitch.pipelines.corpus.dedup.lines import LineDedup
from mswitch.pipelines.corpus.dedup.near import NearDedup
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.fingerprints import FINGERPRINT_BYTES
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.output_shards import ShardSpec, plan_shards, write_documents
from mswitch.pipelines.corpus.phase_progress import phase_progress
from mswitch.pipelines.corpus.pipeline import (
    ClusterNearDuplicates,
    DeduplicateUrls,
    FinishPages,
    IngestCrawl,
    OwnLines,
    WriteKeys,
    WriteShards,
)
from mswitch.pipelines.corpus.results import Finished, Ingested, read_finished, read_ingested
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.local_pool import available_cores
from mswitch.pipelines.runners import run_pipeline

#: Runners on one machine, which shuffle in memory: what is large goes through files there, and
#: references to it through the shuffle.
RUNNERS_BY_REFERENCE = ("local",)
_FILES_PER_LIST = 1000
_TRANSFORMS = {
    UrlDedup.name: DeduplicateUrls,
    NearDedup.name: ClusterNearDuplicates,
    LineDedup.name: OwnLines,
}


@dataclasses.dataclass(frozen=True)
class Build:
    """One build: what every phase needs to know.

    Attributes:
        files: the input; the position of a file is the number of its shard.
        job: work directory, settings and recipe.
        directory: where the corpus is written.
        identity: settings and input, and what they are added to.
        runner: where pipelines run.
        beam_options: Beam's own options.
        base: the corpus that is added to, if it is one.
    """

    files: tuple[CrawlFile, ...]
    job: Job
    directory: str
    identity: str
    runner: str
    beam_options: tuple[str, ...]
    base: Base | None = None

    @property
    def work(self) -> WorkDirectory:
        """Intermediate files."""
        return self.job.work

    @functools.cached_property
    def ingested(self) -> Ingested:
        """What phase 1 noted."""
        return read_ingested(self.job, len(self.files))

    @functools.cached_property
    def finished(self) -> Finished:
        """What phase 4 noted."""
        return read_finished(self.job, len(self.files), pieces=self._by_reference)

    def ingest(self) -> None:
        """Phase 1: one Parquet file of pages per input file."""
        if not self._todo("pages"):
            return
        # Large files first: the last one to finish should not be the longest.
        sizes = [file.size_bytes for file in self.files]
        order = sorted(range(len(sizes)), key=lambda shard: -sizes[shard])
        lists = _write_file_lists(
            [[shard, dataclasses.asdict(self.files[shard])] for shard in order], self.work
        )

        def build(pipeline: beam.Pipeline) -> object:
            return (
                pipeline
                | "Lists" >> beam.Create(lists)
                # Workers read the list of files: as part of the job it could be too large for one.
                | "ReadList" >> beam.FlatMap(storage.read_json)
                | "IngestCrawl" >> IngestCrawl(self.job)
            )

        with phase_progress(self.work, "ingest", "pages", self._named("json", sizes), "bytes"):
            self._run("ingest", build, len(self.files))

    def deduplicate(self) -> dict[str, int]:
        """Phases 2 and 3: choose which pages and lines stay.

        Returns:
            How many bytes each deduplication shuffled (or referred to).
        """
        return {step.name: self._deduplicate(step) for step in self.job.recipe.dedups}

    def _deduplicate(self, step: Dedup) -> int:
        marker = self.work.done(step.name)
        if storage.exists(marker):
            return storage.read_json(marker)["shuffled_bytes"]
        candidates = step.candidates(self.ingested.pages, self.ingested.lines)
        known = self.base.known(step.kind) if self.base else ()
        # A bucket holds the keys of the corpus that is added to as well: most of it, once a corpus
        # is large.
        rows = candidates + (self.base.keys(step.kind) if self.base else 0)
        bits = shared_bits(rows * step.width * 8, self.job.config.bucket_bytes)
        shuffle = Shuffle(bits, self._by_reference, len(self.files), known)
        transform = _TRANSFORMS[step.name]

        def build(pipeline: beam.Pipeline) -> object:
            shards = self._shards(pipeline, len(known))
            return shards | transform.__name__ >> transform(self.job, shuffle)

        weights = self._named("chosen.npy", [1] * len(self.files))
        # Of near-duplicates, shards without matches get no file.
        progress = (
            contextlib.nullcontext()
            if isinstance(step, NearDedup)
            else phase_progress(self.work, step.name, step.name, weights)
        )
        with progress:
            counters = self._run(step.name.replace("_", "-"), build, len(self.files))
        # A bit for each candidate: the same however they are cut into buckets.
        chosen_bytes = -(-counters.get(f"{step.name}_chosen", 0) // 8)
        shuffled = counters.get(f"{step.name}_bytes", 0) + chosen_bytes
        done = {"candidates": candidates, "bucket_bits": bits, "shuffled_bytes": shuffled}
        storage.write_json(marker, done, scratch=True)
        fault_point(f"corpus.after_{step.name}")
        return shuffled

    def finish(self) -> None:
        """Phase 4: decide on every page, leave sorted runs of documents."""
        if not self._todo("finished"):
            return
        sizes = self._named("json", self.ingested.text_bytes)

        def build(pipeline: beam.Pipeline) -> object:
            return self._shards(pipeline) | "FinishPages" >> FinishPages(self.job)

        with phase_progress(self.work, "finish", "finished", sizes, "bytes"):
            self._run("finish", build, len(self.files))

    def write(self) -> tuple[list[ShardSpec], list[dict[str, Any]]]:
        """Phase 5: gather the runs of all shards into output shards, and the keys of all documents.

        Returns:
            The output shards, and the manifest entries of the files with keys.
        """
        config, recipe = self.job.config, self.job.recipe
        prefix, existing = "", {}
        if self.base:
            prefix, existing = self.base.prefix, self.base.validation_documents()
        specs = plan_shards(
            self.finished.languages, config, prefix=prefix, validation_documents=existing
        )
        stores = [self._store(kind) for kind in recipe.kinds] if config.keep_fingerprints else []
        done = self.work.names("shards")
        todo = [spec for spec in specs if f"{spec.name}.json" not in done]
        stores_todo = [store for store in stores if not store.complete()]

        def build(pipeline: beam.Pipeline) -> object:
            shards = self._shards(pipeline)
            write = WriteShards(self.job, todo, self.directory, self._by_reference)
            written = [shards | "WriteShards" >> write] if todo else []
            return written + [
                shards | f"WriteKeys-{store.kind}" >> WriteKeys(store) for store in stores_todo
            ]

        weights = {f"{spec.name}.json": 1 for spec in specs}
        files = len(todo) + sum(store.buckets for store in stores_todo)
        if files:
            with phase_progress(self.work, "shards", "shards", weights):
                self._run("shards", build, files)
        if not self._by_reference:
            # Nothing is shuffled to a shard whose part of the id space has no document.
            written = self.work.names("shards")
            for spec in todo:
                if f"{spec.name}.json" not in written:
                    write_documents(spec, [], self.directory, self.job)
        return specs, [entry for store in stores for entry in store.described()]

    def kept_bytes(self) -> dict[str, int]:
        """How many bytes phase 5 shuffles (or refers to) for each kind of key."""
        if not self.job.config.keep_fingerprints:
            return {}
        kinds = self.job.recipe.kinds
        return {f"kept_{kind}": self.finished.keys[kind] * FINGERPRINT_BYTES for kind in kinds}

    def _store(self, kind: str) -> FingerprintStore:
        return FingerprintStore(
            kind,
            self.work,
            self.directory,
            self.base.prefix if self.base else "",
            bits_for(self.finished.keys[kind] * FINGERPRINT_BYTES, self.job.config.bucket_bytes),
            self._by_reference,
        )

    @property
    def _by_reference(self) -> bool:
        return self.runner in RUNNERS_BY_REFERENCE

    def _named(self, suffix: str, weights: Sequence[int]) -> dict[str, int]:
        """Return a weight for each shard by the name of its file in the work directory."""
        return {f"{shard:06d}.{suffix}": weight for shard, weight in enumerate(weights)}

    def _todo(self, kind: str) -> bool:
        done = self.work.names(kind)
        return any(f"{shard:06d}.json" not in done for shard in range(len(self.files)))

    def _shards(self, pipeline: beam.Pipeline, more: int = 0) -> PCollection[int]:
        """Return the numbers of all shards (and of `more`), spread over the workers.

        Steps skip what is done.
        """
        total = len(self.files) + more
        return (
            pipeline
            | "ShardRanges" >> beam.Create(range(0, total, _FILES_PER_LIST))
            | "Shards" >> beam.FlatMap(lambda n: range(n, min(n + _FILES_PER_LIST, total)))
            | "SpreadShards" >> beam.Reshuffle()
        )

    def _run(
        self, phase: str, build: Callable[[beam.Pipeline], object], items: int
    ) -> dict[str, int]:
        """Run a phase; return its counters."""
        return run_pipeline(
            build,
            self.runner,
            self.beam_options,
            job_name=f"mswitch-corpus-{phase}",
            directory=self.directory,
            identity=self.identity,
            workers=min(items, available_cores()),
        )


def _write_file_lists(files: Sequence[list], work: WorkDirectory) -> list[str]:
    """Write the input files, in this order, as JSON lists of bounded length; return the paths."""
    paths = []
    for start in range(0, len(files), _FILES_PER_LIST):
        path = storage.join(work.root, f"files-{start:06d}.json")
        storage.write_json(path, files[start : start + _FILES_PER_LIST], scratch=True)
        paths.append(path)
    return paths
