"""The flex template: its metadata, its parameters, its image."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.dataflow.launch import build_request, launch, main
from mswitch.pipelines.dataflow.metadata import FILE, metadata, to_json
from mswitch.pipelines.dataflow.parameters import (
    Parameter,
    config_of,
    config_parameters,
    parameters,
    parse,
)
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import canonical_json

ROOT = Path(__file__).parents[2]
NEEDED = ["--input=gs://bucket/a*,gs://bucket/b", "--out=gs://bucket/corpus"]
BEAM = ["--project=p", "--region=r", "--temp_location=gs://bucket/tmp"]
#: Values of lists that are nobody's default.
OTHERS = {
    "field": "text=content,url=page.link",
    "languages": "de,sw",
    "modern_quality_max_top_ngram_shares": "0.7,0.6,0.5",
    "modern_quality_max_duplicate_ngram_shares": "0.75,0.65,0.55,0.45,0.35,0.25",
    "recipe": "gs://bucket/recipe.py",
    "modern_opt_out_honour": "noindex",
    "modern_opt_out_robots": "gptbot,otherbot",
}


#: Settings that profile `modern`, which the others are given for, has no step for.
OF_OTHER_RECIPES = ("recipe", "language_threshold", "language_min_bytes", "language_max_bytes")


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its name as a parameter."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value


def test_the_file_is_what_the_options_say():
    assert FILE.read_text() == to_json(), "run `python -m mswitch.pipelines.dataflow.metadata`"


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


def test_every_setting_is_a_parameter_with_its_default():
    settings = dict(leaves(dataclasses.asdict(CorpusConfig())))
    defaults = {parameter.name: parameter.default for parameter in config_parameters()}
    # What the constructor decides where nothing is given.
    assert settings.pop("keep_und")
    assert defaults.pop("keep_und") is None
    assert defaults == settings


def test_defaults_that_are_given_change_nothing():
    """The console fills them in; a corpus is known by its settings, so 14 must not become 14.0."""
    defaults = {parameter.name: parameter.default_text() for parameter in parameters()}
    given = [f"--{name}={text}" for name, text in defaults.items() if text is not None]
    values, rest = parse([*NEEDED, *given])
    assert rest == []
    assert {name: values[name] for name in values if name not in ("input", "out")} == {
        parameter.name: parameter.default
        for parameter in parameters()
        if parameter.default not in (None, ())
    }
    expected = canonical_json(dataclasses.asdict(CorpusConfig()))
    assert canonical_json(dataclasses.asdict(config_of(values))) == expected


def test_what_is_given_is_the_setting_of_that_name():
    texts = {
        parameter.name: OTHERS.get(parameter.name) or _other(parameter, number)
        for number, parameter in enumerate(config_parameters(), 5)
    }
    given = [f"--{name}={text}" for name, text in texts.items()]
    values, _ = parse([*NEEDED, "--badwords=gs://bucket/words", *given])
    for parameter in config_parameters():
        assert values[parameter.name] != parameter.default
    # No recipe has steps for all of them.
    modern = {name: value for name, value in values.items() if name not in OF_OTHER_RECIPES}
    of_mc4 = {name: values[name] for name in OF_OTHER_RECIPES if name != "recipe"}
    of_a_file = {"recipe": values["recipe"]}
    found: dict[str, Any] = {}
    for given in (modern, of_mc4, of_a_file):
        settings = dict(leaves(dataclasses.asdict(config_of(given))))
        found |= {name: value for name, value in settings.items() if name in given}
    assert found == {name: values[name] for name in texts}


def _other(parameter: Parameter, number: int) -> str:
    """A value that is nobody's default, nor another number's."""
    if parameter.kind == "flag":
        return str(not parameter.default).lower()
    if parameter.kind == "choice":
        return next(one for one in parameter.choices[::-1] if one != parameter.default)
    if parameter.schemes:
        return f"gs://bucket/{number},gs://bucket/other"
    return str(number if parameter.kind == "integer" else number / 128)


def test_parameters_and_beam_options_come_apart():
    values, rest = parse(
        [*NEEDED, "--languages=de,sw", "--keep_und=False", "--shard_bytes=5", "--profile=modern",
         "--language_threshold=0.5", "--modern_mask_personal_data=false",
         "--modern_blocklists=gs://b/ut1,gs://b/mine.txt", "--project=p", "--experiments=a",
         "--no_use_public_ips"]
    )  # fmt: skip
    assert values == {
        "input": ("gs://bucket/a*", "gs://bucket/b"),
        "out": "gs://bucket/corpus",
        "languages": ("de", "sw"),
        "keep_und": False,
        "shard_bytes": 5,
        "profile": "modern",
        "language_threshold": 0.5,
        "modern_mask_personal_data": False,
        "modern_blocklists": ("gs://b/ut1", "gs://b/mine.txt"),
    }
    assert rest == ["--project=p", "--experiments=a", "--no_use_public_ips"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--keep_und=maybe", "--keep_und=maybe: give true or false"),
        ("--shard_bytes=many", "--shard_bytes=many: give one integer"),
        ("--profile=c4", "--profile=c4: give mc4, modern"),
        ("--shard_bytes=0", "--shard-bytes must be at least 1"),
        ("--languages=xx", "xx"),
        ("--no_such_option=1", "no_such_option"),
        ("--input=", "--input is missing"),
        ("--input=gs://a/b,c", "--input=gs://a/b,c: c must begin with gs:// or https://"),
        ("--badwords=/words", "--badwords=/words: /words must begin with gs://"),
        ("--badwords_filter_fraction=0.5", "give their lists with --badwords"),
        ("--modern_blocklists=gs://b/ut1", "is for profile modern: give --profile=modern too"),
        ("--modern_quality_max_top_ngram_shares=a", "shares=a: give numbers with commas between"),
        ("--modern_minhash_bands=0", "bands must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, wrong, message):
    profile = ["--profile=modern"] if "=modern too" not in message else []
    assert main([*NEEDED, *profile, *BEAM, wrong]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_lists_and_settings_reach_the_conductor():
    lists = ["--badwords=gs://b/words", "--badwords_filter_fraction=0.5"]
    request, options = build_request([*NEEDED, *lists, "--runner=DataflowRunner", *BEAM])
    assert request == {
        "inputs": ("gs://bucket/a*", "gs://bucket/b"),
        "out": "gs://bucket/corpus",
        "append": False,
        "badwords": "gs://b/words",
        "settings": {"badwords_filter_fraction": 0.5},
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


def test_a_lone_comma_is_none():
    values, _ = parse([*NEEDED, "--profile=modern", "--modern_opt_out_honour=,"])
    assert config_of(values).modern.opt_out.honour == ()


def test_missing_beam_options_are_named():
    with pytest.raises(UserError, match="needs, after --, --project"):
        launch(NEEDED)


def test_the_image_has_the_beam_that_the_tests_had():
    docker = (ROOT / "pipelines" / "dataflow" / "Dockerfile").read_text()
    [version] = re.findall(r"^ARG BEAM_VERSION=(.+)$", docker, re.MULTILINE)
    assert f"\napache-beam=={version} " in (ROOT / "requirements-gcp.txt").read_text()
    for name in re.findall(r"^COPY (?!--)(.+) /template", docker, re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
