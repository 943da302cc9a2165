"""The flex template: its metadata, its parameters, its image."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pipelines.corpus.config import CorpusConfig
from pipelines.dataflow.launch import launch, main
from pipelines.dataflow.metadata import FILE, metadata, to_json
from pipelines.dataflow.parameters import parameters, parse
from pipelines.errors import UserError

ROOT = Path(__file__).parents[2]
NEEDED = ["--input=gs://bucket/a*,gs://bucket/b", "--out=gs://bucket/corpus"]


def test_the_file_is_what_the_options_say():
    assert FILE.read_text() == to_json(), "run `python -m pipelines.dataflow.metadata`"


def test_the_metadata_is_what_dataflow_takes():
    """The fields of TemplateMetadata and ParameterMetadata in Dataflow's API."""
    from google.cloud import dataflow_v1beta3 as dataflow

    known = metadata()
    for parameter in known["parameters"]:
        # Documented for metadata.json, but newer than this client.
        parameter.pop("defaultValue", None)
    described = dataflow.TemplateMetadata.from_json(json.dumps(known))
    names = [parameter.name for parameter in described.parameters]
    assert len(names) == len(set(names)) == len(parameters())
    for parameter in metadata()["parameters"]:
        assert re.fullmatch(r"[a-zA-Z][-_a-zA-Z0-9]+", parameter["name"])
        assert parameter["label"]
        assert parameter["helpText"]
        for pattern in parameter.get("regexes", ()):
            if "defaultValue" in parameter:
                assert re.fullmatch(pattern, parameter["defaultValue"])


def test_every_simple_setting_is_a_parameter_with_its_default():
    given = {parameter.name: parameter for parameter in parameters()}
    for field in dataclasses.fields(CorpusConfig):
        if field.name != "modern":
            assert given[field.name].default == field.default
    values, _ = parse(
        [
            *NEEDED,
            *(
                f"--{name}={parameter.default}"
                for name, parameter in given.items()
                if parameter.default is not None
            ),
        ]
    )
    assert {name: values[name] for name in values if name not in ("input", "out")} == {
        name: parameter.default
        for name, parameter in given.items()
        if parameter.default is not None
    }


def test_parameters_and_beam_options_come_apart():
    values, rest = parse(
        [*NEEDED, "--languages=de,sw", "--keep_und=False", "--shard_bytes=5", "--profile=modern",
         "--language_threshold=0.5", "--project=p", "--experiments=a", "--no_use_public_ips"]
    )  # fmt: skip
    assert values == {
        "input": ("gs://bucket/a*", "gs://bucket/b"),
        "out": "gs://bucket/corpus",
        "languages": ("de", "sw"),
        "keep_und": False,
        "shard_bytes": 5,
        "profile": "modern",
        "language_threshold": 0.5,
    }
    assert rest == ["--project=p", "--experiments=a", "--no_use_public_ips"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--keep_und=maybe", "--keep_und=maybe: give true or false"),
        ("--shard_bytes=many", "--shard_bytes=many: give one integer"),
        ("--profile=c4", "--profile=c4: give mc4, modern"),
        ("--shard_bytes=0", "shard_bytes is 0"),
        ("--languages=xx", "xx"),
        ("--no_such_option=1", "no_such_option"),
        ("--input=", "--input is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], wrong: str, message: str
):
    beam = ["--project=p", "--region=r", "--temp_location=gs://bucket/tmp"]
    assert main([*NEEDED, *beam, wrong]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_beam_options_are_named():
    with pytest.raises(UserError, match="needs, after --, --project"):
        launch(NEEDED)


def test_the_image_has_the_beam_that_the_tests_had():
    docker = (ROOT / "pipelines" / "dataflow" / "Dockerfile").read_text()
    [version] = re.findall(r"^ARG BEAM_VERSION=(.+)$", docker, re.MULTILINE)
    assert f"\napache-beam=={version} " in (ROOT / "requirements-gcp.txt").read_text()
    for name in re.findall(r"^COPY (?!--)(.+) /template", docker, re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
