"""The table of mswitch's deployments, which `mswitch deploy` puts on the server."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from mswitch.flows.prefect.deploy.automations import HEARTBEAT_SECS
from mswitch.flows.prefect.flows.comparisons import experiment, pretrain_pair, report
from mswitch.flows.prefect.flows.corpus import append_crawl, corpus
from mswitch.flows.prefect.flows.examples import examples
from mswitch.flows.prefect.flows.finetune import finetune_run
from mswitch.flows.prefect.flows.reconcile import reconcile
from mswitch.flows.prefect.flows.refresh import refresh
from mswitch.flows.prefect.flows.stages import STAGE_FLOWS
from mswitch.flows.prefect.form_defaults import (
    DEFAULTS,
    AppendSettings,
    CorpusSettings,
    ExamplesSettings,
    ExperimentSettings,
    FinetuneSettings,
    PairSettings,
    RefreshSettings,
    ReportSettings,
)
from mswitch.flows.prefect.form_fields import (
    find_settings_class,
    flatten_name,
    list_form_values,
    make_form_schema,
)
from mswitch.flows.prefect.operators_toml import (
    FILE,
    HOUSEKEEPING,
    TAG,
    VARIABLE,
    Further,
    Operators,
    Schedule,
)
from mswitch.flows.prefect.owners import OWNER_TAG
from mswitch.pipelines.errors import UserError

#: Prefect's name of the queue that every work pool has.
QUEUE = "default"
NOTHING = Further()
#: Slugs of schedules on the server: from operators.toml, and from the table below.
SLUGS = (FROM_FILE, FROM_TABLE) = ("operators-toml", "mswitch")


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A flow that can be started, with the values of its form.

    Attributes:
        flow: the flow.
        kind: second part of the deployment's name.
        settings: values of its form; None for a flow without parameters.
        schedule: its schedule, unless operators.toml or a person in Prefect sets another; None if
            it is only started by hand.
        concurrency: number of its runs at a time, and the treatment of a further run.
        housekeeping: whether its runs do no work of their own, and wait for no other run.
    """

    flow: Flow[..., Any]
    kind: str
    settings: Any = None
    schedule: Schedule | None = None
    concurrency: tuple[int, ConcurrencyLimitStrategy] | None = None
    housekeeping: bool = False

    @property
    def name(self) -> str:
        """Name of the deployment; it contains the flow's name, which Prefect's lists omit."""
        return f"{self.flow.name}-{self.kind}"

    @property
    def queue(self) -> str:
        """Queue of the work pool in which the deployment's runs wait."""
        return HOUSEKEEPING if self.housekeeping else QUEUE

    @property
    def defaults(self) -> str:
        """Name of the set of defaults that a form starts from; empty if the flow has only one."""
        return self.kind if type(self.settings) in DEFAULTS else ""

    @property
    def required(self) -> list[str]:
        """Main parameters that need a value. The form marks all other parameters as optional."""
        if self.settings is None:
            return []
        values = list_form_values(self.settings)
        names, empty = map(flatten_name, self.settings.everyday), ("None", "''", "[]", "False")
        return [name for name in names if repr(values[name]) not in empty]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that are required, or differ from the flow's defaults."""
        if self.settings is None:
            return {}
        usual, required = list_form_values(type(self.settings)()), self.required
        given = {
            name: value
            for name, value in list_form_values(self.settings).items()
            if value != usual[name] or name in required
        }
        return given | ({"defaults": self.defaults} if self.defaults else {})

    @property
    def entrypoint(self) -> str:
        """Import path of the flow in the installed package, for a worker."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


#: All deployments. Deployments called `sample` run unchanged, in minutes.
DEPLOYMENTS: Sequence[Deployment] = (
    *(Deployment(corpus, *named) for named in DEFAULTS[CorpusSettings].items()),
    Deployment(
        append_crawl,
        "monthly",
        AppendSettings(name="mc4"),
        Schedule(cron="0 6 5 * *"),
    ),
    *(Deployment(examples, *named) for named in DEFAULTS[ExamplesSettings].items()),
    *(Deployment(pretrain_pair, *named) for named in DEFAULTS[PairSettings].items()),
    Deployment(
        refresh,
        "nightly",
        RefreshSettings(),
        Schedule(cron="0 1 * * *"),
        (1, ConcurrencyLimitStrategy.CANCEL_NEW),
    ),
    Deployment(experiment, "sample", ExperimentSettings()),
    Deployment(finetune_run, "run", FinetuneSettings()),
    Deployment(report, "pair", ReportSettings()),
    *(Deployment(one, "run", find_settings_class(one.fn)()) for one in STAGE_FLOWS),
    Deployment(
        reconcile,
        "all",
        # The schedule is active, because otherwise crashed flow runs would stay crashed.
        # Concurrency has no limit, because a killed run would keep its place.
        schedule=Schedule(cron="*/2 * * * *", active=True),
        housekeeping=True,
    ),
)


def list_schedules(
    deployment: Deployment, operators: Operators, present: Sequence[DeploymentSchedule] = ()
) -> list[DeploymentScheduleCreate]:
    """Return the schedules that a deployment should have.

    Only a table of operators.toml replaces a person's schedule in Prefect. If that table is
    removed, its schedule is removed too.

    `present` lists the deployment's schedules on the server.
    """
    given, table = operators.schedules.get(deployment.name), deployment.schedule
    if given is None:
        kept = [_convert_schedule(schedule) for schedule in present if schedule.slug != FROM_FILE]
        return kept or ([_make_schedule(table, FROM_TABLE)] if table is not None else [])
    last = min(present, key=lambda schedule: schedule.slug not in SLUGS, default=None)
    if given.active is None:
        active = last.active if last is not None else table is not None and table.active
        given = given.model_copy(update={"active": active})
    others = [_convert_schedule(schedule) for schedule in present if schedule is not last]
    return [_make_schedule(given, FROM_FILE), *others]


def _make_schedule(schedule: Schedule, slug: str) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone),
        active=bool(schedule.active),
        parameters=schedule.parameters,
        slug=slug,
    )


def _convert_schedule(schedule: DeploymentSchedule) -> DeploymentScheduleCreate:
    """Convert a schedule for an update of its deployment, which replaces all schedules."""
    names = ("schedule", "active", "parameters", "slug")
    return DeploymentScheduleCreate(**{name: getattr(schedule, name) for name in names})


def find_further(deployment: Deployment, operators: Operators) -> Further:
    """Return the fields of a deployment that operators.toml sets."""
    return operators.deployments.get(deployment.name, NOTHING)


def list_tags(deployment: Deployment, operators: Operators) -> list[str]:
    """Return the tags of a deployment and its runs."""
    further = find_further(deployment, operators)
    owner = [f"{OWNER_TAG}{further.owner}"] if further.owner else []
    return [HOUSEKEEPING if deployment.housekeeping else TAG, *owner, *further.tags]


def check_schedules(operators: Operators) -> None:
    """Check that operators.toml's tables name deployments, and that its schedules are valid."""
    names = [deployment.name for deployment in DEPLOYMENTS]
    for table in ("deployments", "schedules"):
        for name in sorted(set(getattr(operators, table)).difference(names)):
            raise UserError(
                f"[{table}.{name!r}] names no deployment: choose among {', '.join(names)}"
            )
    for name, schedule in operators.schedules.items():
        try:
            CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"[schedules.{name!r}] of {FILE}: {first['loc'][0]} = {first['input']!r} is not "
                "valid: give values like cron = '0 6 5 * *' and timezone = 'Europe/Berlin'"
            ) from error


def make_job_variables(operators_file: Path | None, further: Further = NOTHING) -> dict[str, Any]:
    """Return the environment and directory of flow runs; relative paths start in this directory."""
    heartbeat = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECS)}
    known = {**further.environment, **heartbeat, "DO_NOT_TRACK": "1"}
    if operators_file is not None:
        known[VARIABLE] = str(operators_file.absolute())
    return {"env": known, "working_dir": os.getcwd()}


def make_schema(deployment: Deployment, operators: Operators) -> dict[str, Any]:
    """Return the JSON schema of a deployment's parameters.

    A launcher must be `local` or a launcher of operators.toml.
    """
    if deployment.settings is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = make_form_schema(deployment.settings, deployment.defaults)
    schema["required"] = deployment.required
    if "launcher" in schema["properties"]:
        names = ["local", *(name for name in operators.launchers if name != "local")]
        schema["properties"]["launcher"]["enum"] = names
    return schema
