"""Forms and API refuse what the command refuses, and their values reach it as they are."""

import functools
from collections.abc import Iterator
from dataclasses import astuple
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from cyclopts import App, Parameter
from prefect.utilities.schema_tools.validation import (
    ValidationError,
    preprocess_schema,
    validate,
)

from mswitch.flows.prefect.deploy.deployments import DEPLOYMENTS, make_schema
from mswitch.flows.prefect.form_defaults import (
    DEFAULTS,
    CorpusSettings,
    FinetuneSettings,
    PairSettings,
)
from mswitch.flows.prefect.form_fields import (
    JobCancelledError,
    flatten_name,
    list_fields,
    list_old_names,
    make_settings,
    with_settings,
)
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.stages.stage import list_options
from mswitch.models.config import EvaluateConfig, PredictConfig, TrainConfig, TuningConfig
from mswitch.pipelines.config_checks import _find_constraints
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.progress import lines_to
from mswitch.pipelines.vocabulary.train import VocabularyConfig

FORMS = [one for one in DEPLOYMENTS if one.settings is not None]
BY_NAME = {one.name: one for one in FORMS}
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda one: one.name)


@functools.cache
def schema_with_launchers(name: str) -> dict[str, Any]:
    operators = Operators(launchers={"here": {"launcher": "local"}})
    return preprocess_schema(make_schema(BY_NAME[name], operators))


def check(form: Any, **values: Any) -> None:
    """Check values as the server does, which puts them in place of the deployment's."""
    schema = schema_with_launchers(form.name)
    validate(form.parameters | values, schema, raise_on_error=True, preprocess=False)


def fields(schema: dict[str, Any], form: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each field that a form draws, those of opened groups too."""
    for field in form["properties"].values():
        if "then" in field:
            # With fields or a reference of its own, a group would be open at first.
            assert field["anyOf"][0]["properties"] == {}
            assert not field.keys() & {"$ref", "properties", "default"}
            yield from fields(schema, schema["definitions"][field["then"]["$ref"].split("/")[-1]])
        else:
            yield field


@each_form
def test_a_form_begins_with_everyday_fields_and_draws_all_well(form):
    schema = make_schema(form, Operators())

    assert len(schema["properties"]) <= (15 if form.flow.name == "experiment" else 14)
    assert 6 <= len(form.settings.everyday) <= 12
    assert {*schema["required"]} <= {*list(schema["properties"])[: len(form.settings.everyday)]}
    for field in fields(schema, schema):
        assert not field["description"][0].islower(), field
        kinds = field.get("anyOf", [field])
        # Nothing says that it is of type None, or takes JSON.
        drawn = {"string", "integer", "number", "boolean", "array"}
        drawn |= {"null"} if "default" in field else set()
        assert {kind["type"] for kind in kinds} <= drawn, field
        for kind in kinds:
            if kind["type"] in ("integer", "number"):
                assert kind.keys() & {"minimum", "exclusiveMinimum"}, field


@each_form
def test_a_deployment_has_values_that_its_form_takes_and_mean_its_settings(form):
    check(form)
    assert make_settings(type(form.settings), form.parameters) == form.settings
    for wrong in ({"launcher": "moon"}, {"stepz": 3}):
        with pytest.raises(ValidationError):
            check(form, **wrong)
    check(form, **({"launcher": "here"} if "launcher" in form.parameters else {}))


@each_form
def test_what_is_out_of_bounds_is_refused_by_both(form):
    schema = schema_with_launchers(form.name)
    for place, leaf in list_fields(form.settings).items():
        group, _, field = place.rpartition(".")
        name, nested = flatten_name(place), group and place not in form.settings.everyday
        drawn = schema["definitions"][group]["properties"] if nested else schema["properties"]
        bounds, choices = _find_constraints(leaf.hint)
        for value in (*limits(bounds, Ge | Le, 0), *choices):
            values = {"field": value}
            properties = {"field": drawn[field if nested else name]}
            validate(values, {"properties": properties}, raise_on_error=True, preprocess=False)
        wrong = [*limits(bounds, Le | Lt, 1), *limits(bounds, Ge | Gt, -1)]
        for value in (*wrong, *(["none-of-them"] if choices else [])):
            values = {group: {field: value}} if nested else {name: value}
            with pytest.raises(ValidationError):
                check(form, **values)
        if wrong or choices:
            with pytest.raises(UserError, match=field):
                make_settings(type(form.settings), form.parameters | values)


def limits(bounds: list[Any], kinds: Any, beyond: int) -> list[float]:
    return [limit + beyond for one in bounds if isinstance(one, kinds) for limit in astuple(one)]


@pytest.mark.parametrize("name", ["../other", "/etc", "a/b", "", ".hidden", "-x", "a b", "x" * 101])
def test_a_name_that_could_lead_out_of_the_storage_is_refused(name, tmp_path):
    with pytest.raises(ValidationError):
        check(BY_NAME["pretrain-pair-sample"], name=name)
    with pytest.raises(UserError, match="cannot be the name of a run"):
        Operators(storage=tmp_path).locate_directory("pairs", name)


def test_what_is_given_of_a_group_is_merged_with_the_defaults():
    base = BY_NAME["pretrain-pair-base"]
    given = {"steps": 7, "training": {"batch_size": 8, "pack": 2}, "evaluation": None}
    made = make_settings(PairSettings, base.parameters | given)
    assert made.training == TrainConfig(steps=7, batch_size=8, pack=2)
    assert made.evaluation == EvaluateConfig()
    sample = make_settings(PairSettings, given)
    assert sample.training.warmup_steps == DEFAULTS[PairSettings]["sample"].training.warmup_steps
    with pytest.raises(UserError, match=r"training\.stepz is unknown: choose among "):
        make_settings(PairSettings, {"training": {"stepz": 1}})
    with pytest.raises(UserError, match="defaults 'large' are unknown: choose sample or base"):
        make_settings(PairSettings, {"defaults": "large"})


@each_form
def test_names_of_fields_before_there_were_groups_are_understood(form):
    kind, old = type(form.settings), list_old_names(form.settings)
    changes = {"batch_size": 64, "evaluate_dtype": "float32", "report_resamples": 200}
    known = list_fields(form.settings)
    values = {name: changes.get(name, known[place].value) for name, place in old.items()}
    groups: dict[str, dict[str, Any]] = {}
    for name, place in old.items():
        group, _, field = place.partition(".")
        groups.setdefault(group, {})[field] = values[name]
    check(form, **values)
    said: list[str] = []
    with lines_to(said.extend):
        made = make_settings(kind, form.parameters | values)
    assert made == make_settings(kind, form.parameters | groups)
    assert len(said) == bool(old)
    if form.flow.name == "pretrain-pair":
        assert "batch_size as training.batch_size" in said[0]
        found = (made.training.batch_size, made.evaluation.dtype, made.report.resamples)
        assert found == (64, "float32", 200)


def test_nothing_and_a_default_of_nothing_are_told_apart():
    assert make_settings(FinetuneSettings, {}).training.eval_every == 1000
    for given in ({"training": {"eval_every": None}}, {"eval_every": None}):
        check(BY_NAME["finetune-run"], **given)
        assert make_settings(FinetuneSettings, given).training.eval_every is None


def test_a_refresh_takes_changes_of_the_forms_of_its_stages():
    form = BY_NAME["refresh-nightly"]
    changes = {"begin_with": "{previous}", "steps": 3, "training": {"seed": 4}, "batch_size": 2}
    check(form, pair_parameters=changes, examples_parameters={"vocabulary_file": "a.model"})
    for wrong in ({"name": "other"}, {"stepz": 1}, {"training": {"seed": -1}}):
        with pytest.raises(ValidationError):
            check(form, pair_parameters=wrong)


def test_a_derived_setting_stays_derived():
    """`keep_und` follows from `languages` where it is not given."""
    for given, kept in (({}, False), ({"build": {"keep_und": True}}, True)):
        assert make_settings(CorpusSettings, {"languages": ["de"], **given}).build.keep_und is kept


def test_a_rule_of_several_fields_fails_the_run_in_one_line():
    seen = []

    @with_settings
    def some_flow(settings: PairSettings) -> None:
        seen.append(settings)

    state = some_flow(training={"batch_size": 30, "pack": 4})

    assert state.is_failed()
    assert state.message.startswith("--batch-size 30 is not a multiple of --pack 4")
    assert not seen
    assert some_flow(training={"batch_size": 32, "pack": 4}) is None
    assert seen[0].training.rows == 8


def test_a_flow_whose_job_was_cancelled_is_cancelled():
    @with_settings
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

    return app(list_options(config), exit_on_error=False)


CONFIGS = [
    CorpusConfig(),
    CorpusConfig(languages=("de", "sw"), keep_und=True, min_lines=1, drop_metadata_lines=False),
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
    assert f"--field=url={value}" in list_options(config)
    assert parsed(config).field == (f"url={value}",)
