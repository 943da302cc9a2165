"""Runners by name, and the options Beam gets for them."""

import shutil

import pytest

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.runners import pipeline_options, worker_processes


@pytest.fixture(autouse=True)
def java(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/java")


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("spark", [], "unknown runner"),
        ("local", ["--runner=DirectRunner"], "mswitch's own --runner"),
        ("local", ["--nonsense=1"], "does not know --nonsense"),
        ("prism", [], "--prism_location"),
        ("dataflow", ["--project=p"], "--region"),
        ("flink", ["--job_endpoint=localhost:8099"], "--environment_type"),
        ("flink", ["--flink_job_server_jar=nowhere.jar"], "nowhere.jar does not exist"),
    ],
)
def test_runner_says_what_is_missing(runner, options, message):
    with pytest.raises(UserError, match=message):
        pipeline_options(runner, options)


@pytest.mark.parametrize("options", [["--direct_num_workers=3"], ["--direct_num_workers", "3"]])
def test_worker_processes_are_as_many_as_beams_option_says(options, monkeypatch):
    counts = []
    monkeypatch.setattr("mswitch.pipelines.runners.local_pool", counts.append)
    worker_processes("local", options)
    assert counts == [3]


@pytest.mark.parametrize(
    ("given", "hints"),
    [
        ([], ["min_ram=4GB"]),
        (["--resource_hint=min_ram=8GB"], ["min_ram=8GB"]),
        (["--flexrs_goal=COST_OPTIMIZED"], []),
    ],
)
def test_dataflow_is_asked_for_memory_where_it_can_be(given, hints):
    """Right fitting does not support FlexRS."""
    flags = ["--project=p", "--region=r", "--temp_location=gs://bucket/tmp", *given]
    options = pipeline_options("dataflow", flags).get_all_options()
    assert (options["runner"], options["resource_hints"]) == ("DataflowRunner", hints)


def test_flink_options(monkeypatch):
    inside = pipeline_options("flink", ["--flink_job_server_jar=/dev/null"]).get_all_options()
    assert inside["flink_master"] == "[local]"
    # A job server that runs already knows its cluster; Java is then its business alone.
    monkeypatch.setattr(shutil, "which", lambda _: None)
    flags = ["--job_endpoint=localhost:8099", "--environment_type=DOCKER"]
    assert pipeline_options("flink", flags).get_all_options()["flink_master"] == "[auto]"
    with pytest.raises(UserError, match="Java 17"):
        pipeline_options("flink", ["--flink_job_server_jar=/dev/null"])
