"""The flex template: its metadata, its parameters, its image."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mswitch.pipelines.corpus.config import CorpusConfig, parse_config
from mswitch.pipelines.dataflow import launch as launcher
from mswitch.pipelines.dataflow.launch import PARAMETERS, build_request, launch, main
from mswitch.pipelines.errors import UserError

ROOT = Path(__file__).parents[2]
NEEDED = ["--input=gs://bucket/a*,gs://bucket/b", "--out=gs://bucket/corpus"]
BEAM = ["--project=p", "--region=r", "--temp_location=gs://bucket/tmp"]


def test_the_metadata_is_what_dataflow_takes():
    """The fields of TemplateMetadata and ParameterMetadata in Dataflow's API."""
    from google.cloud import dataflow_v1beta3 as dataflow

    known = json.loads(Path(launcher.__file__).with_name("metadata.json").read_text())
    for parameter in known["parameters"]:
        # Documented for metadata.json, but newer than this client.
        parameter.pop("defaultValue", None)
    described = dataflow.TemplateMetadata.from_json(json.dumps(known))
    assert tuple(parameter.name for parameter in described.parameters) == PARAMETERS


def test_settings_are_those_of_the_command():
    assert parse_config("") == CorpusConfig()
    text = "profile=modern;languages=de,sw;keep_und=False;min_lines=2;quality.min_words=5"
    assert parse_config(text) == CorpusConfig(
        profile="modern",
        languages=("de", "sw"),
        keep_und=False,
        min_lines=2,
        set=("quality.min_words=5",),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--set=keep_und=maybe", "keep_und=maybe: give true or false"),
        ("--set=shard_bytes=many", "shard_bytes=many: give a whole number"),
        ("--set=profile=c4", "--profile c4 is unknown: choose mc4 or modern"),
        ("--set=shard_bytes=0", "--shard-bytes must be at least 1"),
        ("--set=languages=xx", "xx"),
        ("--set=min_line=1", "no min_line: did you mean min_lines"),
        ("--set=quality.min_words=1", "recipe mc4 has no quality.min_words"),
        ("--no_such_option=1", "no_such_option"),
        ("--input=", "--input: it is missing: give a URL"),
        ("--input=gs://a/b,c", "--input: c: give a URL that begins with gs:// or https://"),
        ("--badwords=/words", "--badwords: /words: give a URL that begins with gs://"),
        ("--append=1", "--append=1: give true or false"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, wrong, message):
    assert main([*NEEDED, *BEAM, wrong]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_lists_and_settings_reach_the_conductor():
    lists = ["--badwords=gs://b/words", "--set=badwords_filter_fraction=0.5"]
    request, options = build_request([*NEEDED, *lists, "--runner=DataflowRunner", *BEAM])
    assert request == {
        "inputs": ["gs://bucket/a*", "gs://bucket/b"],
        "out": "gs://bucket/corpus",
        "append": False,
        "badwords": "gs://b/words",
        "set": "badwords_filter_fraction=0.5",
        "beam_options": BEAM,
    }
    assert options == ["--runner=DataflowRunner", *BEAM]


def test_only_the_jobs_of_the_build_wait_for_cheap_workers(monkeypatch):
    seen = []

    def stop(options: Any) -> None:
        seen.append(options.get_all_options())
        raise InterruptedError

    monkeypatch.setattr("apache_beam.Pipeline", stop)
    flexible = [*NEEDED, *BEAM, "--flexrs_goal=COST_OPTIMIZED"]
    with pytest.raises(InterruptedError):
        launch(flexible)
    assert seen[0]["flexrs_goal"] is None
    assert build_request(flexible)[0]["beam_options"][-1] == "--flexrs_goal=COST_OPTIMIZED"


def test_missing_beam_options_are_named():
    with pytest.raises(UserError, match="needs, after --, --project"):
        launch(NEEDED)


def test_the_image_has_the_beam_that_the_tests_had():
    docker = (ROOT / "pipelines" / "dataflow" / "Dockerfile").read_text()
    [version] = re.findall(r"^ARG BEAM_VERSION=(.+)$", docker, re.MULTILINE)
    assert f"\napache-beam=={version} " in (ROOT / "requirements-gcp.txt").read_text()
    for name in re.findall(r"^COPY (?!--)(.+) /template", docker, re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
