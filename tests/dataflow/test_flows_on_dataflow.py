"""Flows that build on Dataflow, on a real Prefect server: jobs are found, waited for, cancelled."""

import json
import os
import signal

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataflow_builds import IN_IMAGE, beam_options
from file_server import FileServer
from operators_server import Served, served, until
from trees import send

from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Record, read_record
from mswitch.pipelines import storage
from mswitch.pipelines.outputs import read_manifest

pytestmark = [pytest.mark.dataflow, pytest.mark.server, pytest.mark.timeout(1500)]

DUMP, LIST = "CC-MAIN-2024-18", "/collinfo.json"
SETTINGS = {"runner": "dataflow", "shard_bytes": 2000, "bucket_bytes": 500}


@pytest.fixture
def dumps():
    """A dump of one file."""
    with FileServer() as server:
        server.files |= crawl.dump(DUMP, 100)
        server.files[LIST] = json.dumps([{"id": DUMP}]).encode()
        yield server


@pytest.fixture
def server(tmp_path, dumps, peer, bucket):
    options = beam_options(peer, bucket, IN_IMAGE)
    place = f'common_crawl = "{dumps.url}"\ncommon_crawl_list = "{dumps.url}{LIST}"\n'
    table = f'[dataflow]\nstorage = "{bucket}/mswitch"\noptions = {json.dumps(options)}\n'
    with served(tmp_path, head=place, toml=table) as made:
        yield made


def record_of(server: Served) -> Record:
    record = read_record(server.storage / "corpora" / "cloud")
    assert record is not None
    return record


def lives(server: Served) -> bool:
    record = record_of(server)
    alive = record.alive
    return alive is not None and Local().poll(record.job, alive.number).phase == "running"


def test_a_build_is_found_suspended_cancelled_finished_and_added_to(
    server, peer, bucket, waiting, crawl_files
):
    send(crawl_files[0].parent, f"{bucket}/crawl")
    given = {"name": "cloud", "inputs": [f"{bucket}/crawl/*"], **SETTINGS}
    corpus = f"{bucket}/mswitch/corpora/cloud"
    waiting("-ingest-")
    first = len(peer.jobs)

    def jobs():
        return peer.jobs[first:]

    # Its process here is killed: the flow run starts it again, and Dataflow's job is waited for.
    run = server.start("corpus-sample", **given)
    until(jobs, 400, lambda: server.log)
    host = json.loads(record_of(server).job.file(1, ".lock").read_bytes())["pid"]
    os.killpg(host, signal.SIGKILL)
    found = "of this build is already running"
    until(lambda: any(found in line for line in server.lines(run)), 200, lambda: server.log)
    [job] = jobs()
    assert job.state == "JOB_STATE_RUNNING"

    # Suspended: it is not billed. Resumed: the phase begins anew.
    details = {"pause_reschedule": True}
    server.set_state(run, type="PAUSED", name="Suspended", state_details=details)
    until(lambda: job.state == "JOB_STATE_CANCELLED", 120, lambda: server.log)
    until(lambda: f"Execution of flow run '{run}' is paused" in server.log, 60)
    assert not lives(server)
    server.client.resume_flow_run(run)
    until(lambda: len(jobs()) == 2, 200, lambda: server.log)

    # Cancelled.
    server.set_state(run, type="CANCELLING")
    server.wait(run, {"Cancelled"}, 200)
    until(lambda: jobs()[1].state == "JOB_STATE_CANCELLED", 60, lambda: server.log)
    assert not lives(server)
    assert record_of(server).intent == "cancel"
    assert not storage.exists(f"{corpus}/_COMPLETED")

    # Given again, it is built.
    waiting("-ingest-").set()
    server.finish("corpus-sample", **given)
    assert storage.exists(f"{corpus}/_COMPLETED")
    assert record_of(server).job.out == corpus
    rows = json.loads(server.artifacts("table")["corpus-cloud"]["data"])
    assert {row["lang"] for row in rows} >= {"de", "en"}

    # The newest dump goes by the bucket, and is added there, once.
    for _ in range(2):
        server.finish("append-crawl-monthly", name="cloud")
        [addition] = read_manifest(corpus, "corpus")["additions"]
        [file] = addition["inputs"]
        assert file["path"] == f"{bucket}/mswitch/crawls/{DUMP}.wet-1/wet/CC-00000.warc.wet.gz"
    shards = [f"{corpus}/data/{name}" for name in storage.file_sizes(f"{corpus}/data")]
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(shard))) for shard in shards]
    urls = [url for table in tables for url in table["url"].to_pylist()]
    assert any(url.startswith(f"http://{DUMP}.de/") for url in urls)

    # What Dataflow cannot read is refused before anything is started.
    count = len(peer.jobs)
    run = server.start("corpus-sample", **{**given, "name": "other", "inputs": ["/etc/hosts"]})
    assert server.wait(run, {"Completed", "Failed"}, 200).state.message == (
        "/etc/hosts: workers of Dataflow read only URLs; give gs:// or https://"
    )
    assert len(peer.jobs) == count
