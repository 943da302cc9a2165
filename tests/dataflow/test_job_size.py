"""What is sent to Dataflow for a whole dump: 90,000 files, and every shard of a large corpus."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import pytest
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api

from mswitch.pipelines import file_tasks
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.job import prepare_job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.results import Finished, Ingested, LanguageIndex
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.runners import pipeline_options

FILES = 90_000
#: Text after deduplication that makes thousands of shards: 3 TB.
TEXT_BYTES = 3 << 40
pytestmark = pytest.mark.slow

#: Dataflow's limit for a job. (What is posted does not hold the pipeline: test_jobs.py.)
LIMIT_BYTES = 10 << 20
IMAGE = "example.test/mswitch:1"
OPTIONS = (
    "--project=test-project", "--region=europe-west4", "--temp_location=gs://some-bucket/tmp",
    "--dry_run=True", "--no_auth", f"--sdk_container_image={IMAGE}", "--machine_type=n2-highmem-4",
)  # fmt: skip


class Captured(Build):
    """A build that has its input's accounts made up."""

    @functools.cached_property
    def ingested(self) -> Ingested:
        pages, lines, text = ([count] * FILES for count in (40_000, 10**6, 10**8))
        return Ingested(pages, lines, text, [], Ledger())

    @functools.cached_property
    def finished(self) -> Finished:
        index = LanguageIndex({"train": [FILES, FILES * 1000, TEXT_BYTES], "validation": [0] * 3})
        return Finished({"en": index}, Counter(), Ledger())


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    files = tuple(
        CrawlFile(f"gs://some-bucket/crawl/CC-{n:05d}.warc.wet.gz", f"CC-{n:05d}", n, "0" * 64)
        for n in range(FILES)
    )
    work = WorkDirectory(str(tmp_path_factory.mktemp("work")))
    config = CorpusConfig(keep_fingerprints=False)
    job = prepare_job(work, config, config.load())
    engine = Engine("corpus", "gs://some-bucket/corpus", "", "dataflow", OPTIONS)
    build = Captured(files, job, engine.out, engine)
    jobs = []

    def submit(add: Any, *_given: Any, **_named: Any) -> None:
        """Submit to nobody, and note all as done."""
        pipeline = beam.Pipeline(options=pipeline_options("dataflow", OPTIONS))
        add(pipeline)
        jobs.append(pipeline.run().job)
        for tasks in add.keywords["lists"]:
            for number in range(len(tasks.items)):
                Path(tasks.notes, f"{number:06d}.json").write_text("{}")

    with mock.patch.object(file_tasks, "run_pipeline", submit):
        build.ingest()
        build.finish()
        shards, _ = build.write()
    assert len(shards) > 10_000
    assert len(list(Path(work.root).glob("pages/items-*.pickle"))) == FILES // 1000
    assert len(build.groups) == FILES / 10
    assert [exchange.bits for exchange in build.exchanges] == [12, 12]
    return jobs


def test_a_pipeline_is_far_smaller_than_a_job_may_be(jobs):
    assert len(jobs) == 3
    for job in jobs:
        assert (
            len(job.proto_pipeline.SerializeToString()) < LIMIT_BYTES / 40
        )  # one has all lists of both deduplications


def test_workers_have_their_image_and_memory_and_nothing_of_main(jobs):
    """They import packages: no session is staged, and no step refers to a main module."""
    for job in jobs:
        options = job.options.get_all_options()
        assert options["save_main_session"] is False
        assert options["pickle_library"] in ("default", "cloudpickle")
        for environment in job.proto_pipeline.components.environments.values():
            payload = beam_api.DockerPayload.FromString(environment.payload)
            assert payload.container_image == IMAGE
            assert environment.resource_hints["beam:resources:min_ram_bytes:v1"] == b"4000000000"
            names = [
                beam_api.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
                for artifact in environment.dependencies
            ]
            assert names == ["submission_environment_dependencies.txt"]
        assert options["sdk_container_image"] == IMAGE
