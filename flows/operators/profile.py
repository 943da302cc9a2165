"""operators.toml: the server, where everything is stored, where jobs run, and the schedules.

    server = "http://127.0.0.1:4200/api"
    storage = "/srv/mswitch"

    [launchers.gpu]
    launcher = "slurm"
    partition = "gpu"

    [schedules.append-crawl]
    cron = "0 6 5 * *"
    active = true

Without the file everything has its default: a server on this machine, `runs` in this directory.
"""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, ValidationError, field_validator

from flows.launch.job import Launcher, output_below
from flows.launch.launchers import make_launcher
from flows.launch.local import Local
from flows.launch.record import Record
from flows.operators.settings import Name
from pipelines.errors import UserError
from pipelines.storage import is_remote

FILE = "operators.toml"
#: Where a flow finds the file that it was deployed with.
VARIABLE = "MSWITCH_OPERATORS"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Table):
    """When a deployment runs by itself.

    Attributes:
        cron: such as `0 6 5 * *`.
        timezone: of the cron line.
        active: whether it runs; else the schedule is there to be switched on.
        parameters: of its runs, in place of the deployment's.
    """

    cron: str
    timezone: str = "UTC"
    active: bool = False
    parameters: dict[str, Any] = {}


class Operators(_Table):
    """All settings of the operators' side.

    Attributes:
        server: address of Prefect's API.
        storage: the directory below which all outputs go.
        pool: name of the work pool.
        flow_runs: how many flow runs work at a time. They wait for jobs, and compute little.
        trainings: how many trainings of a flow run at a time on this machine.
        launchers: `flows.launch` profiles by name; `local` is always there.
        schedules: by deployment, such as `append-crawl`.
    """

    server: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:4200/api")
    storage: Path = Path("runs")
    pool: Name = "mswitch"
    flow_runs: Annotated[int, Ge(1)] = 10
    trainings: Annotated[int, Ge(1)] = 1
    launchers: dict[Name, dict[str, Any]] = {}
    schedules: dict[str, Schedule] = {}

    @field_validator("storage", mode="before")
    @classmethod
    def _is_directory(cls, storage: Any) -> Any:
        if is_remote(storage):
            raise ValueError(f"{storage} is remote: give a directory")
        return storage

    def launcher(self, name: str) -> Launcher:
        """The launcher of that name.

        Raises:
            UserError: there is none, or its settings are wrong.
        """
        profiles = {"local": {"launcher": "local"}, **self.launchers}
        if name not in profiles:
            raise UserError(f"unknown launcher {name!r}: choose among {', '.join(profiles)}")
        try:
            return make_launcher(profiles[name])
        except (KeyError, TypeError, UserError) as error:
            raise UserError(
                f"[launchers.{name}] of {FILE} has a wrong or missing key ({profiles[name]}): "
                'give launcher = "local" or "slurm" and its settings'
            ) from error

    def trainings_at_a_time(self, launcher: Launcher) -> int:
        """How many trainings a launcher gets at a time; a scheduler queues them itself."""
        return self.trainings if isinstance(launcher, Local) else sys.maxsize

    def launcher_of(self, record: Record) -> Launcher:
        """The launcher that has the attempts of a job."""
        return make_launcher(record.launcher)

    def directory(self, kind: str, name: str) -> Path:
        """Where the output called `name` goes, of a kind such as `corpora`.

        Raises:
            UserError: the name could lead elsewhere.
        """
        return output_below(self.storage / kind, name)


def read_operators(path: str | Path | None = None) -> Operators:
    """Read operators.toml.

    Args:
        path: the file; by default what $MSWITCH_OPERATORS names, or operators.toml where there is
            one.

    Raises:
        UserError: it cannot be read, or says something else.
    """
    given = path or os.environ.get(VARIABLE)
    file = Path(given or FILE)
    try:
        text = file.read_text("utf-8") if given or file.exists() else ""
        operators = Operators.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {where}: {first['msg'].lower()}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): give a TOML file") from error
    # A worker may run in another directory.
    root = Path(os.path.abspath(file)).parent
    operators = operators.model_copy(update={"storage": root / operators.storage})
    for name in operators.launchers:
        operators.launcher(name)
    return operators
