"""`python -m mswitch.flows.deploy.prefect_yaml` writes prefect.yaml for `prefect deploy`.

It follows from the table of deployments; a test compares the file with what this prints.
"""

from pathlib import Path
from typing import Any

import yaml

from mswitch.flows.deploy.deployments import DEPLOYMENTS, Deployment, environment
from mswitch.flows.operators.profile import Operators

FILE = Path(__file__).parents[1] / "prefect.yaml"
_HEAD = (
    "# Written by `python -m mswitch.flows.deploy.prefect_yaml` from flows/deploy/deployments.py.\n"
)


def to_yaml() -> str:
    """prefect.yaml as it is in the repository."""
    content = {
        "name": "mswitch",
        "pull": [],
        "deployments": [_describe(deployment) for deployment in DEPLOYMENTS],
    }
    return _HEAD + yaml.safe_dump(content, sort_keys=False, width=100)


def _describe(deployment: Deployment) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": deployment.name,
        "entrypoint": deployment.entrypoint,
        "description": deployment.flow.description,
        "tags": deployment.tags,
        "parameters": deployment.parameters,
        "work_pool": {
            "name": Operators().pool,
            "work_queue_name": deployment.queue,
            "job_variables": {"env": environment(None)},
        },
        "schedules": [],
    }
    if deployment.schedule is not None:
        described["schedules"] = [deployment.schedule.model_dump()]
    if deployment.concurrency is not None:
        limit, strategy = deployment.concurrency
        described["concurrency_limit"] = {"limit": limit, "collision_strategy": strategy.value}
    return described


if __name__ == "__main__":
    FILE.write_text(to_yaml())
