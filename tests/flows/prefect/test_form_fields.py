"""Forms and API refuse what the command refuses, and their values reach it as they are."""

import dataclasses
from dataclasses import astuple
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le
from cyclopts import App, Parameter
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from mswitch.flows.prefect.deploy.deployments import DEPLOYMENTS, schema_of
from mswitch.flows.prefect.form_defaults import (
    CorpusSettings,
    PairSettings,
    RefreshSettings,
)
from mswitch.flows.prefect.form_fields import (
    EVERYDAY,
    JobCancelledError,
    configured,
    everyday,
    flat,
    flat_values,
)
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.stages.stage import options_of
from mswitch.models.config import EvaluateConfig, PredictConfig, TrainConfig, TuningConfig
from mswitch.pipelines.config_checks import constraints
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.vocabulary.train import VocabularyConfig

FLOWS = {type(one.settings): one.flow for one in DEPLOYMENTS if one.settings is not None}


def check(values: dict[str, Any], schema: dict[str, Any]) -> None:
    validate(values, schema, raise_on_error=True, preprocess=False)


def schema_for(settings: type) -> dict[str, Any]:
    return parameter_schema(FLOWS[settings].fn).model_dump_for_openapi()


@pytest.mark.parametrize("settings", FLOWS)
def test_every_field_is_described_and_has_a_default(settings):
    properties = schema_for(settings)["properties"]

    assert set(properties) == set(flat_values(settings()))
    first = everyday(properties)
    assert 1 < len(first) <= 10
    assert list(properties)[: len(first)] == first
    for name, field in properties.items():
        assert field["description"], name
        assert "default" in field, name
        for one in (field, *field.get("anyOf", ())):
            if one.get("type") in ("integer", "number"):
                assert one.keys() & {"minimum", "exclusiveMinimum"}, name
    check({}, schema_for(settings))


def test_each_name_of_the_everyday_fields_is_one_of_some_flow():
    assert set(EVERYDAY) <= {name for settings in FLOWS for name in flat_values(settings())}


def bounded_fields(value: Any, prefix: str = ""):
    """Each field of settings: its parameter's name, its bounds and its choices."""
    for name, (bounds, choices) in constraints(type(value)).items():
        inner = getattr(value, name)
        if dataclasses.is_dataclass(inner):
            yield from bounded_fields(inner, prefix if name == "config" else f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", bounds, choices


def wrong_values(settings: type):
    """Of each field one value beyond each bound, and one that is none of the choices."""
    for name, bounds, choices in bounded_fields(settings()):
        for bound in bounds:
            [limit] = astuple(bound)
            yield name, limit - 1 if isinstance(bound, Ge | Gt) else limit + 1
        if choices:
            yield name, "none-of-them"


@pytest.mark.parametrize("settings", FLOWS)
def test_what_is_out_of_bounds_is_refused_by_both(settings):
    schema = schema_for(settings)
    for name, bounds, choices in bounded_fields(settings()):
        within = [one for bound in bounds if isinstance(bound, Ge | Le) for one in astuple(bound)]
        for value in (*within, *choices):
            check({name: value}, schema)
    values = list(wrong_values(settings))
    assert values or settings is RefreshSettings
    for name, value in values:
        with pytest.raises(ValidationError):
            check({name: value}, schema)
        with pytest.raises(UserError):
            configured(settings, {name: value})


@pytest.mark.parametrize("name", ["../other", "/etc", "a/b", "", ".hidden", "-x", "a b", "x" * 101])
def test_a_name_that_could_lead_out_of_the_storage_is_refused(name, tmp_path):
    with pytest.raises(ValidationError):
        check({"name": name}, schema_for(PairSettings))
    with pytest.raises(UserError, match="cannot be the name of a run"):
        Operators(storage=tmp_path).directory("pairs", name)


def test_the_schema_of_a_deployment_knows_the_launchers_and_no_other_fields():
    operators = Operators(launchers={"here": {"launcher": "local"}})
    [pair] = [one for one in DEPLOYMENTS if one.name == "pretrain-pair-sample"]
    schema = schema_of(pair, operators)

    given = pair.parameters
    check(given | {"launcher": "here"}, schema)
    for wrong in ({"launcher": "there"}, {"stepz": 3}):
        with pytest.raises(ValidationError):
            check(given | wrong, schema)
    # What a form shows first is required, but for what may stay empty.
    assert schema["required"][:3] == ["name", "examples", "baseline"]
    assert "seed" in schema["required"]
    titles = {name: field["title"] for name, field in schema["properties"].items()}
    assert titles["batch_size"] == "Batch size"
    assert titles["warmup_steps"] == "Training: Warmup steps"
    assert titles["evaluate_dtype"] == "Evaluation: Dtype"
    assert "max_cost_usd" not in schema["required"]
    for name in schema["required"]:
        with pytest.raises(ValidationError):
            check({key: value for key, value in given.items() if key != name}, schema)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one.name)
def test_every_deployment_has_values_that_its_form_takes(deployment):
    schema = schema_of(deployment, Operators())
    check(deployment.parameters, schema)
    if deployment.settings is not None:
        made = configured(type(deployment.settings), deployment.parameters)
        assert flat_values(made) == flat_values(deployment.settings)
    titles = [field["title"] for field in schema["properties"].values()]
    assert len(set(titles)) == len(titles)


def test_values_are_given_flat_and_arrive_nested():
    values = {"steps": 7, "batch_size": 8, "pack": 2, "evaluate_batch_size": 4, "report_seed": 3}

    made = configured(PairSettings, values)

    assert (made.config.steps, made.config.pack) == (7, 2)
    assert (made.evaluate.batch_size, made.report.seed) == (4, 3)
    assert made.config.warmup_steps == PairSettings().config.warmup_steps


def test_a_derived_setting_stays_derived():
    """`keep_und` follows from `languages` where it is not given."""
    assert flat_values(CorpusSettings())["keep_und"] is None
    for given, kept in ((None, False), (True, True)):
        values = {"languages": ["de"], "keep_und": given}
        assert configured(CorpusSettings, values).config.keep_und is kept


def test_a_rule_of_several_fields_fails_the_run_in_one_line():
    seen = []

    @flat
    def some_flow(settings: PairSettings) -> None:
        seen.append(settings)

    state = some_flow(batch_size=30, pack=4)

    assert state.is_failed()
    assert state.message.startswith("--batch-size 30 is not a multiple of --pack 4")
    assert not seen
    assert some_flow(batch_size=32, pack=4) is None
    assert seen[0].config.rows == 8


def test_a_flow_whose_job_was_cancelled_is_cancelled():
    @flat
    def some_flow(settings: PairSettings) -> None:
        raise JobCancelledError("run: cancelled")

    state = some_flow()

    assert state.is_cancelled()
    assert state.message == "run: cancelled"


def parsed(config: Any) -> Any:
    """What the command makes of the options of a configuration."""
    app = App(result_action="return_value")
    kind = type(config)

    @app.default
    def command(*, config: Annotated[kind, Parameter(name="*")] = kind()) -> Any:  # noqa: B008
        return config

    return app(options_of(config), exit_on_error=False)


CONFIGS = [
    CorpusConfig(),
    CorpusConfig(languages=("de", "sw"), keep_und=True, min_lines=1, drop_metadata_lines=False),
    CorpusConfig(languages=("de",)),
    CorpusConfig(
        profile="modern",
        dedup_scope="language",
        set=("opt_out.honour=noai", "quality.max_top_ngram_shares=0.3,0.2,0.1"),
    ),
    VocabularyConfig(size=500, character_coverage=0.999),
    ExamplesConfig(inputs_length=64, finished=True, validation_segments=2),
    TrainConfig(steps=5, scan_layers=True, loss_spike=6.5, optimizer="adamw", weight_decay=0.1),
    TuningConfig(steps=7, base_learning_rate=0.04, eval_every=2, freeze="experts"),
    EvaluateConfig(batch_size=3, dispatch="blocks"),
    PredictConfig(decode="beam", beams=2, limit=5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: type(one).__name__)
def test_options_mean_the_settings_they_were_made_of(config):
    assert parsed(config) == config


@pytest.mark.parametrize("value", ["--out=/etc", "a b; rm -rf /", "$(id)", "-h"])
def test_a_value_stays_one_word_that_is_no_option_of_its_own(value):
    config = CorpusConfig(languages=("de",), field=(f"url={value}",))
    assert f"--field=url={value}" in options_of(config)
    assert parsed(config).field == (f"url={value}",)
