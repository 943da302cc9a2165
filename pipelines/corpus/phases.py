"""The phases of a corpus build: lists of file tasks over the shards of a work directory."""

import dataclasses
import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

from mswitch.pipelines.corpus import output_shards
from mswitch.pipelines.corpus.change import Base
from mswitch.pipelines.corpus.dedup.exchange import (
    Exchange,
    Group,
    fix_groups,
    group_shards,
    write_groups,
)
from mswitch.pipelines.corpus.dedup.key_files import (
    MOST_SORTING_BYTES,
    choose_bits,
    choose_shared_bits,
    gather_keys,
)
from mswitch.pipelines.corpus.dedup.minimum_per_key import MinimumPerKey
from mswitch.pipelines.corpus.dedup.near import NearDedup
from mswitch.pipelines.corpus.dedup.near_exchange import NearDuplicates
from mswitch.pipelines.corpus.fingerprints import FINGERPRINT_BYTES
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.results import (
    Finished,
    Ingested,
    count_for_engine,
    read_finished,
    read_ingested,
)
from mswitch.pipelines.corpus.shard_work import finish_group, ingest_shard
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.file_tasks import Engine, Tasks, run_tasks


@dataclasses.dataclass(frozen=True)
class Build:
    """Input, settings and engine of a build, which every phase needs.

    Attributes:
        files: the input; a file's position is its shard number.
        job: work directory, settings and recipe.
        directory: directory to write the corpus to.
        engine: runs the lists of tasks.
        base: the corpus to add to; None for a new corpus.
    """

    files: tuple[CrawlFile, ...]
    job: Job
    directory: str
    engine: Engine
    base: Base | None = None

    @property
    def work(self) -> WorkDirectory:
        """Intermediate files."""
        return self.job.work

    @property
    def ingest_tasks(self) -> Tasks:
        """Tasks that each write a Parquet file of pages from an input file."""
        function = partial(ingest_shard, job=self.job)
        sizes = [file.size_bytes for file in self.files]
        items = list(enumerate(self.files))
        notes = self.work.directory("pages")
        return Tasks("ingest", function, items, notes, sizes, "bytes", count_for_engine)

    @property
    def finish_tasks(self) -> Tasks:
        """Tasks that each write a sorted run of documents from a group of shards."""
        function = partial(finish_group, job=self.job, exchanges=self.exchanges)
        sizes = [sum(self.ingested.text_bytes[shard] for shard in g.shards) for g in self.groups]
        items = range(len(self.groups))
        notes = self.work.directory("finish")
        return Tasks("finish", function, items, notes, sizes, "bytes", count_for_engine)

    @functools.cached_property
    def ingested(self) -> Ingested:
        """Results of ingest, once it has run."""
        return read_ingested(self.ingest_tasks.read(), self.job)

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """Status and counts of each input file, for the manifest; see `Ingested`."""
        return self.ingested.statuses

    @functools.cached_property
    def finished(self) -> Finished:
        """Results of the finish phase, once the phase has run."""
        pieces = self.engine.runner == "local"
        return read_finished(self.finish_tasks.read(), self.job, pieces=pieces)

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The shards, combined into groups."""
        pages, lines = self.ingested.pages, self.ingested.lines
        keys = [
            max(step.candidates(*counts) for step in self.job.recipe.dedups)
            for counts in zip(pages, lines, strict=True)
        ]
        make = partial(group_shards, pages, lines, keys, self._sorting_bytes)
        return fix_groups(self.work, make)

    @property
    def _sorting_bytes(self) -> int:
        # Local processes share memory. On a cluster, each worker has its own memory
        # (`WORKER_MEMORY`), so it can sort more bytes at once. Groups of shards can then be larger,
        # which saves read requests.
        return MOST_SORTING_BYTES * (1 if self.engine.runner == "local" else 4)

    @functools.cached_property
    def exchanges(self) -> list[Exchange]:
        """Deduplications over all shards, which choose the pages or lines that stay."""
        exchanges: list[Exchange] = []
        steps = self.job.recipe.dedups
        known = (
            {step.kind: self.base.list_key_files(step.kind) for step in steps} if self.base else {}
        )
        shared = write_groups(self.work, self.groups, known)
        for step in steps:
            candidates = step.candidates(sum(self.ingested.pages), sum(self.ingested.lines))
            # Buckets also hold the keys of a corpus that grows, which may have more keys than the
            # new pages.
            rows = candidates + self._known_keys(step.kind)
            bits = choose_shared_bits(rows * step.width * 8, self.job.config.bucket_bytes)
            given = (step, self.work, shared, bits, tuple(exchanges), self._sorting_bytes)
            exchanges.append(
                NearDuplicates(*given, marks=self.job.recipe.count_marks_before(step))
                if isinstance(step, NearDedup)
                else MinimumPerKey(*given)
            )
        return exchanges

    def _known_keys(self, kind: str) -> int:
        return self.base.count_keys(kind) if self.base else 0

    def ingest(self) -> None:
        """Read the input."""
        run_tasks([self.ingest_tasks], self.engine)

    def finish(self) -> None:
        """Deduplicate pages and lines, then write the sorted documents of each group of shards."""
        chosen = [tasks for exchange in self.exchanges for tasks in exchange.make_lists()]
        run_tasks([*chosen, self.finish_tasks], self.engine)

    def write(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write output shards from the documents of all groups; write the keys of all documents.

        Returns:
            Manifest entries and statistics of the output shards, and manifest entries of the key
            files.
        """
        config = self.job.config
        specs = output_shards.plan_shards(
            self.finished.languages,
            config,
            prefix=self.base.prefix if self.base else "",
            validation_documents=self.base.count_validation_documents() if self.base else {},
        )
        write = partial(output_shards.write_shard, directory=self.directory, job=self.job)
        notes = self.work.directory("shards")
        shards = Tasks("shards", write, specs, notes, on_engine=self._shuffle)
        kept = self.make_key_tasks() if config.keep_fingerprints else []
        run_tasks([shards, *kept], self.engine, "shards")
        return list(shards.read()), [entry for tasks in kept for entry in tasks.read()]

    def make_key_tasks(self) -> list[Tasks]:
        """Return tasks that gather the keys of all documents; a task returns a manifest entry."""
        return [self._make_gathering(kind) for kind in self.job.recipe.kinds]

    def list_manifest_entries(self) -> dict[str, Any]:
        """Return additional entries for the corpus's manifest."""
        return {}

    def merge_contamination(self, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the content of decontamination.json: here, the unchanged report of this build."""
        return report

    def _shuffle(self, root: Any, tasks: Tasks) -> Any:
        from mswitch.pipelines.corpus.shuffle_documents import shuffle_documents

        given = {"finished": self.finish_tasks, "directory": self.directory, "job": self.job}
        return shuffle_documents(root, tasks, **given)

    def count_shuffled_bytes(self) -> dict[str, int]:
        """Return the bytes shuffled for each deduplication and for each kind of kept keys."""
        chosen = {
            exchange.step.name: exchange.count_shuffled_bytes(self._known_keys(exchange.step.kind))
            for exchange in self.exchanges
        }
        if not self.job.config.keep_fingerprints:
            return chosen
        keys = self.finished.keys
        kinds = self.job.recipe.kinds
        return chosen | {f"kept_{kind}": keys[kind] * FINGERPRINT_BYTES for kind in kinds}

    def _make_gathering(self, kind: str) -> Tasks:
        bits = choose_bits(
            self.finished.keys[kind] * FINGERPRINT_BYTES, self.job.config.bucket_bytes
        )
        prefix = self.base.prefix if self.base else ""
        cut = {"kind": kind, "groups": len(self.groups), "prefix": prefix, "bits": bits}
        gather = partial(gather_keys, work=self.work, directory=self.directory, **cut)
        notes = self.work.directory(f"{kind}_fingerprints")
        return Tasks(f"{kind} fingerprints", gather, range(1 << bits), notes)
