"""The four Beam jobs of a corpus build, each over the units of a work directory."""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam

from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup import Contest, SettleContest
from pipelines.corpus.finish import finish_unit
from pipelines.corpus.ingest import ingest_unit
from pipelines.corpus.langid import LanguageIdentifier
from pipelines.corpus.sinks import ShardSpec, plan_shards, write_shard
from pipelines.corpus.work_directory import WorkDirectory, read_json, save_json
from pipelines.crawl.archives import CrawlFile
from pipelines.faults import fault_point
from pipelines.progress import Progress
from pipelines.runners import run_pipeline

#: Runners that shuffle in memory: fingerprints go through files, references through the shuffle.
RUNNERS_BY_REFERENCE = ("local",)
_BYTES_PER_CANDIDATE = {"winners": 40, "owners": 32}


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
    """

    files: tuple[CrawlFile, ...]
    work: WorkDirectory
    directory: Path
    config: CorpusConfig
    runner: str
    beam_options: tuple[str, ...]

    def ingest(self) -> None:
        """Phase 1: one Parquet file of pages per input file."""
        sizes = {unit: file.size_bytes for unit, file in enumerate(self.files)}
        done = [unit for unit in sizes if self.work.ingested(unit).exists()]
        todo = [(unit, self.files[unit]) for unit in sizes if unit not in set(done)]
        # Large files first: the last one to finish should not be the longest.
        todo.sort(key=lambda item: -item[1].size_bytes)

        def build(pipeline: beam.Pipeline) -> object:
            return (
                pipeline
                | "Files" >> beam.Create(todo)
                | "SpreadFiles" >> beam.Reshuffle()
                | "IngestFile" >> beam.Map(_ingest, work=self.work, config=self.config)
            )

        with self._progress("ingest", sizes, "bytes", self.work.ingested):
            self._run("ingest", todo, build)

    def settle(self, contest: str) -> None:
        """Phases 2 and 3: settle who wins each URL, then who owns each line."""
        marker = self.work.settled(contest)
        if marker.exists():
            return
        units = range(len(self.files))
        column = {"winners": "pages", "owners": "lines"}[contest]
        candidates = sum(read_json(self.work.ingested(unit))[column] for unit in units)
        buckets = candidates * _BYTES_PER_CANDIDATE[contest] / self.config.bucket_bytes
        bits = min(16, max(0, math.ceil(math.log2(max(buckets, 1)))))
        settle = SettleContest(
            Contest(contest, self.work, bits, self.runner in RUNNERS_BY_REFERENCE)
        )

        def build(pipeline: beam.Pipeline) -> object:
            return pipeline | beam.Create(units) | beam.Reshuffle() | contest.capitalize() >> settle

        weights = dict.fromkeys(units, 1)
        verdict = lambda unit: self.work.verdicts(contest, unit)  # noqa: E731
        with self._progress(contest, weights, "files", verdict):
            self._run(contest, units, build)
        save_json(marker, {"candidates": candidates, "bucket_bits": bits})
        fault_point(f"corpus.after_{contest}")

    def finish(self) -> None:
        """Phase 4: decide on every page, identify languages, leave sorted runs."""
        units = [unit for unit in range(len(self.files)) if not self.work.finished(unit).exists()]
        sizes = [
            read_json(self.work.ingested(unit))["text_bytes"] for unit in range(len(self.files))
        ]

        def build(pipeline: beam.Pipeline) -> object:
            return (
                pipeline
                | "Units" >> beam.Create(units)
                | "SpreadUnits" >> beam.Reshuffle()
                | "FinishUnit" >> beam.ParDo(_FinishUnit(self.work, self.config))
            )

        weights = dict(enumerate(sizes))
        with self._progress("languages", weights, "bytes", self.work.finished):
            self._run("finish", units, build)

    def write_shards(self) -> list[ShardSpec]:
        """Phase 5: gather the runs of all units into output shards."""
        indexes = [
            read_json(self.work.finished(unit))["languages"] for unit in range(len(self.files))
        ]
        shards = plan_shards(indexes, self.config)
        todo = [shard for shard in shards if not self.work.shard(shard.name).exists()]

        def build(pipeline: beam.Pipeline) -> object:
            return (
                pipeline
                | "Shards" >> beam.Create(todo)
                | "SpreadShards" >> beam.Reshuffle()
                | "WriteShard"
                >> beam.Map(write_shard, self.directory, work=self.work, config=self.config)
            )

        weights = dict.fromkeys(range(len(shards)), 1)
        entry = lambda number: self.work.shard(shards[number].name)  # noqa: E731
        with self._progress("shards", weights, "files", entry):
            self._run("shards", todo, build)
        return shards

    def _run(
        self, phase: str, todo: Sequence[object], build: Callable[[beam.Pipeline], object]
    ) -> None:
        if todo:
            workers = min(os.cpu_count() or 1, len(todo))
            name = f"mswitch-corpus-{phase}"
            run_pipeline(build, self.runner, self.beam_options, job_name=name, workers=workers)

    @contextmanager
    def _progress(
        self, what: str, weights: dict[int, int], unit: str, marker: Callable[[int], Path]
    ) -> Iterator[None]:
        """Print how much of a phase is done, seen by the files that it leaves."""
        scale = 1
        if unit == "bytes":
            scale, unit = (10**6, "MB") if sum(weights.values()) >= 10**7 else (10**3, "kB")
        progress = Progress("corpus", what, round(sum(weights.values()) / scale), unit)
        waiting = {number: weight / scale for number, weight in weights.items()}

        def done_since_last() -> float:
            ready = [number for number in waiting if marker(number).exists()]
            return sum(waiting.pop(number) for number in ready)

        before = done_since_last()
        progress.start_at(round(before))
        stop = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(stop, progress, done_since_last, before), daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _ingest(item: tuple[int, CrawlFile], work: WorkDirectory, config: CorpusConfig) -> None:
    ingest_unit(*item, work, config)


def _watch(
    stop: threading.Event, progress: Progress, done_since_last: Callable[[], float], done: float
) -> None:
    """Report until told to stop; then once more."""
    finished = False
    while not finished:
        finished = stop.wait(1.0)
        done += done_since_last()
        more = round(done) - progress.done
        if more or not finished:
            progress.add(more)


class _FinishUnit(beam.DoFn):
    """Runs `finish_unit` with one CLD3 model per worker."""

    def __init__(self, work: WorkDirectory, config: CorpusConfig):
        self._work, self._config = work, config

    def setup(self) -> None:
        config = self._config
        self._identifier = LanguageIdentifier(
            config.language_threshold, config.language_min_bytes, config.language_max_bytes
        )

    def process(self, element: int) -> Iterable[None]:
        finish_unit(element, self._work, self._config, self._identifier)
        return ()
