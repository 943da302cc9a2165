"""Nights that chain, on a real Prefect server: a process is killed in each."""

import datetime
import json
import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import crawl_files as crawl
import pytest
from corpus_files import read_json
from example_files import vocabulary
from file_server import FileServer
from operators_server import engines, served, until
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from mswitch.pipelines.outputs import read_manifest

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(3000)]

OLD, NEW, NEWEST = "CC-MAIN-2024-10", "CC-MAIN-2024-18", "CC-MAIN-2024-22"
LIST = "/collinfo.json"


@pytest.fixture
def dumps():
    """Dumps of one WET file each."""
    with FileServer() as server:
        for number, dump in enumerate((OLD, NEW, NEWEST)):
            server.files |= crawl.dump(dump, 100 * number)
        yield server


@pytest.fixture
def server(tmp_path, dumps):
    place = f'common_crawl = "{dumps.url}"\ncommon_crawl_list = "{dumps.url}{LIST}"\n'
    with served(tmp_path, head=place) as made:
        yield made


def test_three_nights_that_chain(server, dumps):
    """A new dump, none, and another; in each night a process is killed."""
    model = server.directory / "vocabulary.model"
    model.write_bytes(vocabulary(500))
    file = f"{dumps.url}/crawl-data/{OLD}/segments/0/wet/CC-00000.warc.wet.gz"
    server.finish(
        "corpus-sample",
        name="nightly",
        inputs=[file],
        languages=["de"],
        build={"validation_per_mille": 0, "min_validation_documents": 2},
    )
    gate = {"max_unknown_share": 1.0, "max_tokens_per_word": 1000.0}
    parameters = {
        "corpus": "nightly",
        "examples": "night-{dump}",
        "pair": "night-{dump}-{date}",
        "timezone": "Europe/Berlin",
        "examples_deployment": "examples-sample",
        "examples_parameters": {"vocabulary_file": str(model), "inputs_length": 64, **gate},
        "pair_deployment": "pretrain-pair-sample",
        "pair_parameters": {"steps": 6, "training": {"evaluations": 3, "batch_size": 4}},
    }

    def night(day: int, newest: str, victim: str, **changes: Any) -> FlowRun:
        dumps.files[LIST] = json.dumps([{"id": newest}, {"id": OLD}]).encode()
        found = server.client.read_deployment_by_name("refresh/refresh-nightly")
        then = datetime.datetime(2026, 1, day, 23, 30, tzinfo=datetime.UTC)
        run = server.client.create_flow_run_from_deployment(
            found.id, parameters=parameters | changes, state=Scheduled(scheduled_time=then)
        ).id
        stages = lambda: server.post(  # noqa: E731
            "flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [str(run)]}}
        ).json()
        running = until(
            lambda: [one for one in stages() if victim in one["name"] and one["run_count"]],
            400,
            lambda: server.log,
        )
        killed = run if victim == "append" else UUID(running[0]["id"])
        [engine] = until(lambda: engines(killed), 60, lambda: server.log)
        os.kill(engine, signal.SIGKILL)

        def ended() -> FlowRun | None:
            states = [server.client.read_flow_run(run).state_name]
            states += [one["state_name"] for one in stages()]
            if "Crashed" in states:
                server.wait(server.start("reconcile-all"), {"Completed"})
            found = server.client.read_flow_run(run)
            return found if found.state_name in {"Completed", "Failed"} else None

        found = until(ended, 900, lambda: server.log)
        assert found.state_name == "Completed", found.state
        # Whoever continued, each stage had one run.
        assert len(stages()) == 3
        return found

    done = night(1, NEW, "append")
    first = f"night-{NEW}-2026-01-02"  # in Berlin it is the next day
    report = read_json(server.storage / "pairs" / first / "report" / "report.json")
    assert done.state.message.startswith(report["summary"]["verdict"])
    assert report["started_by"] == "pretrain-pair-sample, by another flow run"
    corpus = server.storage / "corpora" / "nightly"
    assert len(read_manifest(corpus, "corpus")["additions"]) == 1
    examples = server.storage / "examples" / f"night-{NEW}"
    made = (examples / "manifest.json").stat().st_mtime_ns

    night(2, NEW, "examples", pair=first)
    assert len(read_manifest(corpus, "corpus")["additions"]) == 1
    assert (examples / "manifest.json").stat().st_mtime_ns == made
    assert len(list((server.storage / "pairs").glob("night-*"))) == 1

    # On the corpus that grew, the first night's pair goes on.
    before = {"begin_with": "{previous}"}
    night(3, NEWEST, "pretrain", pair_parameters={**parameters["pair_parameters"], **before})
    assert len(read_manifest(corpus, "corpus")["additions"]) == 2
    assert (server.storage / "pairs" / f"night-{NEWEST}-2026-01-04" / "report").is_dir()
    assert (server.storage / "index.html").read_text().count("night-") >= 2

    # The same pair with more steps is extended, and so is its report.
    pair = f"night-{NEWEST}-2026-01-04"
    training = {"evaluations": 3, "batch_size": 4}
    longer = {"steps": 12, "training": training, "begin_with": first}
    server.finish("pretrain-pair-sample", name=pair, examples=f"night-{NEWEST}", **longer)
    check_continued(server.storage / "pairs" / pair, server.storage / "pairs" / first)


def check_continued(pair: Path, before: Path) -> None:
    """Runs of 12 steps, 6 at first, that began with others of 6 on other examples."""
    report = read_json(pair / "report" / "report.json")
    for side in ("baseline", "candidate"):
        assert report["runs"][side]["steps"] == 12
        preset = report["runs"][side]["preset"]
        config = read_json(pair / preset / "config.json")
        origin = config["origin"]
        assert config["horizons"] == [6]
        assert (origin["step"], origin["steps_counted"], origin["keep_moments"]) == (6, 6, True)
        assert origin["examples"]["config_hash"] != config["examples"]["config_hash"]
        assert config["model"] == read_json(before / preset / "config.json")["model"]
