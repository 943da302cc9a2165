"""Read operators.toml: the server, the storage, the launchers of jobs, and the schedules.

    server = "http://127.0.0.1:4200/api"
    storage = "/srv/mswitch"
    pages = "http://127.0.0.1:4280"
    bucket = "gs://bucket/mswitch"

    [launchers.gpu]
    launcher = "slurm"
    partition = "gpu"

    [prices.gpu]
    chip_hour = 3.9
    chips = 8

    [dataflow]
    storage = "gs://bucket/mswitch"
    options = ["--project=my-project", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]

    [schedules."append-crawl-monthly"]
    cron = "0 6 5 * *"
    active = true

Without the file all settings are defaults.
"""

import dataclasses
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

from annotated_types import Ge, Gt
from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from mswitch.flows.jobs.job import NAME, Launcher, resolve_output
from mswitch.flows.jobs.launchers import LAUNCHERS, make_launcher
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Record, read_record
from mswitch.models.hardware import PEAKS, find_peak_flops
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.samples.common_crawl import BASE_URL
from mswitch.pipelines.storage import is_remote, join

FILE = "operators.toml"
#: Tags of deployments and their flow runs. Most flow runs are of `reconcile`, which has its own
#: tag, so that lists can leave it out.
TAGS = (TAG, HOUSEKEEPING) = ("mswitch", "housekeeping")
#: Environment variable with the path of the operators.toml with which a flow was deployed.
VARIABLE = "MSWITCH_OPERATORS"


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
#: Name of a trained pair of models, or "" for no pair. Flow `refresh` accepts `{previous}` for the
#: previous pair.
PairName = Annotated[str, Field(pattern=rf"^({NAME}|\{{previous\}})?$")]
RunName = Annotated[str, Field(pattern=f"^(pairs/{NAME}/{NAME}|(runs|finetuned)/{NAME})$")]


def make_deployment_path(name: str) -> str:
    """Return the flow/name of a deployment, such as `pretrain-pair-base`, for Prefect's API."""
    return name if "/" in name else f"{name.rpartition('-')[0]}/{name}"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Table):
    """Schedule of a deployment.

    Attributes:
        cron: cron line, such as `0 6 5 * *`.
        timezone: time zone of the cron line.
        active: whether it runs; None keeps a person's choice in Prefect. A new schedule is off,
            except the reconciler's.
        parameters: parameters of its runs, in place of the deployment's.
    """

    cron: str
    timezone: str = "UTC"
    active: bool | None = None
    parameters: dict[str, Any] = {}


class Further(_Table):
    """Fields of a deployment that operators.toml sets.

    Attributes:
        owner: who is responsible for it; its runs get a tag `owner:NAME`.
        tags: further tags of its runs.
        environment: environment variables of its runs, and of jobs that they start on this machine.
    """

    owner: Name | None = None
    tags: tuple[Name, ...] = ()
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = {}


class Price(_Table):
    """Price of an hour in USD: set either `host_hour` or `chip_hour`.

    Attributes:
        host_hour: price of a host, or node.
        chip_hour: price of a chip.
        chips: number of chips of a host.
        chip: JAX's name of it, such as `TPU v5e` or `NVIDIA H100`; its peak rate gives an estimate
            before anything was measured.
    """

    host_hour: Annotated[float, Gt(0)] | None = None
    chip_hour: Annotated[float, Gt(0)] | None = None
    chips: Annotated[int, Ge(1)] = 1
    chip: str = ""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.host_hour is None) == (self.chip_hour is None):
            raise ValueError("give one of host_hour and chip_hour")
        if self.chip and find_peak_flops(self.chip) is None:
            raise ValueError(f"chip {self.chip!r} is unknown: choose among {', '.join(PEAKS)}")
        return self

    def usd(self, host_hours: float) -> float:
        """Return the cost of hosts for a number of hours."""
        return host_hours * (self.host_hour or (self.chip_hour or 0.0) * self.chips)


class Notifications(_Table):
    """Receivers of Prefect's messages.

    Attributes:
        url_variable: the environment variable with a URL in Apprise's form: a webhook of Slack,
            mailto://, jsons:// and many more. `mswitch deploy` reads it; no file contains it.
    """

    url_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Dataflow(_Table):
    """Settings of builds on Dataflow.

    Attributes:
        storage: the gs:// URL below which corpora and their crawls are written. Records of their
            jobs are in the storage of all outputs.
        options: Beam's options, such as `--project=my-project`. Credentials come from the
            environment.
    """

    storage: Annotated[str, Field(pattern=r"^gs://[^/]+(/|$)")]
    options: tuple[Annotated[str, Field(pattern=r"^--[a-z]")], ...]

    def place(self, kind: str, name: str) -> str:
        """Return the URL of the output `name` of a kind such as `corpora`."""
        return join(self.storage, kind, name)


class Operators(_Table):
    """All settings of operators.toml.

    Attributes:
        server: address of Prefect's API.
        storage: the directory of all outputs and of the records of their jobs.
        pages: address at which `mswitch serve` shows the storage, for links; None if it does not.
        bucket: the gs:// or s3:// URL that examples and runs are written to instead, if any.
        pool: name of the work pool.
        flow_runs: number of flow runs at a time. They wait for jobs, and compute little.
        trainings: number of trainings at a time on this machine, over all flows and commands.
        launchers: launchers' profiles by name; `local` always exists.
        evaluations: by launcher, the launcher that evaluates its runs; by default itself.
        prices: prices by launcher.
        dataflow: settings for corpora of runner dataflow, if any.
        notifications: receivers of messages, if any.
        common_crawl: address of Common Crawl's dumps, or of a mirror.
        common_crawl_list: address of the list of all dumps, the newest first.
        schedules: schedules by deployment, such as `append-crawl-monthly`.
        deployments: further fields by deployment.
    """

    server: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:4200/api")
    storage: Path = Path("runs")
    pages: AnyHttpUrl | None = None
    bucket: Annotated[str, Field(pattern=r"^(gs|s3)://[^/]+(/|$)")] | None = None
    pool: Name = "mswitch"
    flow_runs: Annotated[int, Ge(1)] = 10
    trainings: Annotated[int, Ge(1)] = 1
    launchers: dict[Name, dict[str, Any]] = {}
    evaluations: dict[Name, Name] = {}
    prices: dict[Name, Price] = {}
    dataflow: Dataflow | None = None
    notifications: Notifications | None = None
    common_crawl: AnyHttpUrl = AnyHttpUrl(BASE_URL)
    common_crawl_list: AnyHttpUrl = AnyHttpUrl("https://index.commoncrawl.org/collinfo.json")
    schedules: dict[str, Schedule] = {}
    deployments: dict[str, Further] = {}

    @field_validator("storage", mode="before")
    @classmethod
    def _is_directory(cls, storage: Any) -> Any:
        if is_remote(storage):
            raise ValueError(f"{storage} is remote: give a directory, and the URL as bucket")
        return storage

    def find_launcher(self, name: str) -> Launcher:
        """Return the launcher of that name."""
        profiles = {"local": {"launcher": "local"}, **self.launchers}
        if name not in profiles:
            raise UserError(f"unknown launcher {name!r}: choose among {', '.join(profiles)}")
        try:
            return self.make_launcher(profiles[name])
        except UserError as error:
            raise UserError(f"[launchers.{name}] of {FILE}: {error}") from error
        except ValidationError as error:
            raise UserError(f"[launchers.{name}] of {FILE}: {describe_problem(error)}") from error
        except (KeyError, TypeError) as error:
            raise UserError(
                f"[launchers.{name}] of {FILE} has a wrong or missing key ({profiles[name]}): "
                f"give launcher = {' or '.join(map(repr, LAUNCHERS))} and its settings"
            ) from error

    def make_launcher(self, profile: dict[str, Any]) -> Launcher:
        """Make a launcher from its profile; limit the trainings that a local one runs at a time."""
        launcher = make_launcher(profile)
        local = isinstance(launcher, Local)
        return dataclasses.replace(launcher, trainings=self.trainings) if local else launcher

    def find_evaluator(self, name: str) -> Launcher:
        """Return the launcher for one-host evaluations of runs that the launcher `name` trained."""
        return self.find_launcher(self.evaluations.get(name, name))

    def count_trainings_at_a_time(self, launcher: Launcher) -> int:
        """Return the number of trainings to start at a time; a scheduler gets all at once."""
        return self.trainings if isinstance(launcher, Local) else sys.maxsize

    def look_up_price(self, name: str, *, limited: bool) -> Price | None:
        """Return the price of a launcher's hosts; None if operators.toml has no price for it.

        If the cost is `limited`, a price is needed.
        """
        if limited and name not in self.prices:
            raise UserError(
                f"max_cost_usd needs a price: give host_hour in [prices.{name}] of {FILE}, or "
                "leave max_cost_usd empty"
            )
        return self.prices.get(name)

    def find_price(self, record: Record) -> Price | None:
        """Return the price of the launcher that runs a job; None if the launcher has no price."""
        names = (
            name for name in self.prices if self.find_launcher(name).profile == record.launcher
        )
        return next((self.prices[name] for name in names), None)

    def locate_directory(self, kind: str, *names: str) -> Path:
        """Return the path of an output; if the output is in a bucket, return its record's path.

        Args:
            kind: the directory in the storage, such as `corpora`.
            names: names of the directories that contain it, such as a pair, and its own.
        """
        place = self.storage / kind
        for name in names:
            place = resolve_output(place, name)
        return place

    def locate_output(self, kind: str, *names: str) -> Path | str:
        """Look up an output's path or URL in its job's record; by default return its local path."""
        place = self.locate_directory(kind, *names)
        record = read_record(place)
        return place if record is None else record.job.out

    def locate_run(self, name: str) -> Path | str:
        """Return the path or URL of a run by its `RunName`."""
        return self.locate_output(*name.split("/"))

    def make_address(self, page: Path) -> str:
        """Return the URL of a page, or its path if pages are not served."""
        if self.pages is None or not page.is_relative_to(self.storage):
            return str(page.absolute())
        path = page.relative_to(self.storage).as_posix()
        return f"{str(self.pages).rstrip('/')}/{quote(path)}"

    def make_link(self, page: Path) -> str:
        """Return Markdown with a link to a page, or with its path if pages are not served."""
        address = self.make_address(page)
        if address == str(page.absolute()):
            return f"`{address}`"
        return f"[{page.relative_to(self.storage).as_posix()}]({address})"

    def choose_destination(self, place: Path) -> Path | str:
        """Return where a job writes examples or a run: `place`, or a URL if a bucket is set."""
        if self.bucket is None:
            return place
        return join(self.bucket, *place.relative_to(self.storage).parts)


def read_operators(path: str | Path | None = None) -> Operators:
    """Read settings from `path`, by default $MSWITCH_OPERATORS, or operators.toml if it exists."""
    given = path or os.environ.get(VARIABLE)
    file = Path(given or FILE)
    try:
        text = file.read_text("utf-8") if given or file.exists() else ""
        operators = Operators.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise UserError(f"{file}: {describe_problem(error)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): give a TOML file") from error
    # The storage's path is relative to the file, because a worker may run in another directory.
    root = Path(os.path.abspath(file)).parent
    operators = operators.model_copy(update={"storage": root / operators.storage})
    evaluations = (name for pair in operators.evaluations.items() for name in pair)
    for name in (*operators.launchers, *evaluations, *operators.prices):
        operators.find_launcher(name)
    return operators


def describe_problem(error: ValidationError, *place: str) -> str:
    """Describe the first error in one line: its place, what is wrong, and the value given."""
    first = error.errors()[0]
    where = ".".join(map(str, (*place, *first["loc"])))
    match first["type"]:
        case "extra_forbidden":
            return f"{where}: there is no such setting, remove it or correct its name"
        case "missing":
            return f"{where}: is missing, add it"
        case "value_error":
            return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    message = re.sub("^(Input|String) should", "must", first["msg"])
    return f"{where}: {message}, and is {first['input']!r}"
