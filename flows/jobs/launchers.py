"""The launchers by name."""

from typing import Any

from mswitch.flows.jobs.job import Launcher
from mswitch.flows.jobs.kubernetes import Kubernetes
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.slurm import Slurm

LAUNCHERS: dict[str, Any] = {"local": Local, "slurm": Slurm, "kubernetes": Kubernetes}


def make_launcher(profile: dict[str, Any]) -> Launcher:
    """Make a launcher from its `Launcher.profile`."""
    settings = {name: value for name, value in profile.items() if name != "launcher"}
    return LAUNCHERS[profile["launcher"]](**settings)
