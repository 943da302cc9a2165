"""The launchers by name."""

from typing import Any

from flows.launch.job import Launcher
from flows.launch.local import Local
from flows.launch.slurm import Slurm
from pipelines.errors import UserError

LAUNCHERS: dict[str, Any] = {"local": Local, "slurm": Slurm}


def make_launcher(profile: dict[str, Any]) -> Launcher:
    """Make the launcher of which `Launcher.profile` was this.

    Raises:
        UserError: there is none, or it has no such settings.
    """
    settings = {name: value for name, value in profile.items() if name != "launcher"}
    try:
        return LAUNCHERS[profile["launcher"]](**settings)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"no launcher is as the record of the job says ({profile}): give the command with the "
            "mswitch that submitted it"
        ) from error
