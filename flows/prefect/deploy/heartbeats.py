"""Flow runs whose process died without a word, told by heartbeats that stay away."""

import datetime
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from mswitch.flows.prefect.approval import AWAITING_APPROVAL
from mswitch.flows.prefect.operators_toml import TAG, TAGS

#: Seconds between the signs of life of a flow run.
HEARTBEAT_SECS = 30
#: How long they may stay away.
SILENT_SECS = 3 * HEARTBEAT_SECS


def zombies() -> AutomationCore:
    """Flow runs that give no sign of life have crashed; the reconciler starts them again."""
    ends = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused", "AwaitingRetry")
    crash: ActionTypesOrUnknown = ChangeFlowRunState(
        state=StateType.CRASHED,
        name="Crashed",
        message=f"No sign of life for {SILENT_SECS} seconds: its process ended, or could not reach "
        "the server. Its jobs keep running; it starts again within two minutes.",
        force=False,
    )
    return AutomationCore(
        name=f"{TAG}-zombies",
        description="Flow runs without a sign of life are Crashed.",
        trigger=of_flow_runs(
            ("heartbeat", *ends, AWAITING_APPROVAL),
            after={"prefect.flow-run.heartbeat"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=datetime.timedelta(seconds=SILENT_SECS),
        ),
        actions=[crash],
    )


def of_flow_runs(expect: Sequence[str], *related: Any, **options: Any) -> EventTrigger:
    """Return a trigger by events of our flow runs, which are most often called after states."""
    tags = [f"prefect.tag.{tag}" for tag in TAGS]
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=[{"prefect.resource.role": "tag", "prefect.resource.id": tags}, *related],
        expect={f"prefect.flow-run.{name}" for name in expect},
        **options,
    )
