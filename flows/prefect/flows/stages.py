"""Prefect flows that run one stage; their forms ask for names of runs and data, not for paths."""

import dataclasses
from typing import Any

from prefect import Flow

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_fields import describe, settings_flow
from mswitch.flows.prefect.operators_toml import Name, Operators, RunName, read_operators
from mswitch.flows.stages.distill import distill as distill_stage
from mswitch.flows.stages.evaluate import evaluate as evaluate_stage
from mswitch.flows.stages.stage import Stage
from mswitch.flows.stages.upcycle import upcycle as upcycle_stage
from mswitch.models.config import JobConfig
from mswitch.pipelines.config_checks import check_fields

RUN = "pairs/NAME/PRESET, runs/NAME or finetuned/NAME"


def make_settings_class(stage: Stage) -> type:
    """Make the class of settings of a stage's flow: names of inputs and output, and options."""
    docs = {**describe(stage.function)}
    fields: list[tuple[str, Any, Any]] = []
    everyday: list[str] = []
    if stage.output not in stage.reads:
        fields.append(("name", Name, "sample"))
    for name, parameter in stage.parameters.items():
        if (kind := stage.reads.get(name)) is not None:
            of_run = kind == "runs"
            fields.append(
                (name, RunName if of_run else Name, "runs/sample" if of_run else "sample")
            )
        elif name != stage.output and parameter.annotation is not JobConfig:
            empty = parameter.default is parameter.empty
            fields.append((name, parameter.annotation, "" if empty else parameter.default))
            if dataclasses.is_dataclass(parameter.default):
                docs[name] = (parameter.annotation.__doc__ or "").partition("\n")[0]
                # `config` has few fields, so the form shows them directly, not in a closed group.
                own = [field.name for field in dataclasses.fields(parameter.default)]
                everyday += [f"{name}.{field}" for field in own if name == "config"]
                everyday += ["training.steps"] if name == "training" else []
    fields.append(("launcher", Name, "local"))
    docs["name"] = "name of the output and its directory."
    docs["launcher"] = "where it runs: a launcher of operators.toml."
    docs |= {
        name: f"{RUN if kind == 'runs' else f'name in `{kind}` of the storage'}: {docs[name]}"
        for name, kind in stage.reads.items()
    }
    lines = [f"    {name}: {docs[name]}" for name, _, _ in fields if name in docs]
    plain = [name for name, _, default in fields if not dataclasses.is_dataclass(default)]
    made = dataclasses.make_dataclass(
        "Settings",
        fields,
        frozen=True,
        namespace={"__post_init__": check_fields, "everyday": (*plain[:-1], *everyday, "launcher")},
    )
    made.__doc__ = "\n".join([f"Of flow `{stage.name}`.", "", "Attributes:", *lines])
    return made


def make_job(stage: Stage, settings: Any, operators: Operators) -> Job:
    """Return the job of a stage's flow with these settings."""
    values = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in ("name", "launcher")
    }
    made = values.get(stage.output) or f"{stage.makes}/{settings.name}"
    place = operators.locate_directory(*made.split("/"))
    for name, kind in stage.reads.items():
        source = values[name] if kind == "runs" else f"{kind}/{values[name]}"
        values[name] = str(operators.locate_output(*source.split("/")))
    values.setdefault(stage.output, operators.choose_destination(place))
    return stage.job(record=place, **values)


def stage_flow(stage: Stage) -> Flow[..., Any]:
    """Make the flow of a stage."""
    settings_class = make_settings_class(stage)

    def run(settings: settings_class) -> None:  # pyright: ignore[reportInvalidTypeForm]
        operators = read_operators()
        job = make_job(stage, settings, operators)
        follow_job(stage.name, job, operators.find_launcher(settings.launcher))

    name = stage.name.replace(" ", "-")
    run.__name__ = run.__qualname__ = name.replace("-", "_")
    run.__doc__ = (stage.function.__doc__ or "").partition("\n")[0]
    of = f"{name} {{{stage.output if stage.output in stage.reads else 'name'}}}"
    return settings_flow(name, of)(run)


# Prefect imports each flow by its variable's name, which is also the name of its command.
distill = stage_flow(distill_stage)
evaluate = stage_flow(evaluate_stage)
upcycle = stage_flow(upcycle_stage)

STAGE_FLOWS = (distill, evaluate, upcycle)
