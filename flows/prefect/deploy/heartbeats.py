"""Detect flow runs whose process died silently, by missing heartbeats."""

import datetime
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from mswitch.flows.prefect.approval import AWAITING_APPROVAL
from mswitch.flows.prefect.operators_toml import TAG, TAGS

#: Seconds between heartbeats of a flow run.
HEARTBEAT_SECS = 30
#: Seconds without a heartbeat after which a flow run counts as crashed.
SILENT_SECS = 3 * HEARTBEAT_SECS


def make_zombie_automation() -> AutomationCore:
    """Return the automation that sets silent flow runs to Crashed; the reconciler restarts them."""
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
        trigger=make_flow_run_trigger(
            ("heartbeat", *ends, AWAITING_APPROVAL),
            after={"prefect.flow-run.heartbeat"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=datetime.timedelta(seconds=SILENT_SECS),
        ),
        actions=[crash],
    )


def make_flow_run_trigger(expect: Sequence[str], *related: Any, **options: Any) -> EventTrigger:
    """Return a trigger by events of mswitch's flow runs; most events have the name of a state."""
    tags = [f"prefect.tag.{tag}" for tag in TAGS]
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=[{"prefect.resource.role": "tag", "prefect.resource.id": tags}, *related],
        expect={f"prefect.flow-run.{name}" for name in expect},
        **options,
    )
