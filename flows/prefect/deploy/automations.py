"""Automations: flow runs that died silently become Crashed, and messages are sent."""

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from mswitch.flows.prefect.approval import AWAITING_APPROVAL
from mswitch.flows.prefect.operators_toml import FILE, TAG, TAGS, Notifications
from mswitch.flows.prefect.owners import MAX_RUNS
from mswitch.flows.prefect.stalled_jobs import STALLED
from mswitch.pipelines.errors import UserError

HEARTBEAT_SECS = 30
#: Seconds without a heartbeat after which a flow run counts as crashed.
SILENT_SECS = 3 * HEARTBEAT_SECS
#: Name of the blocks. They send with Apprise, which accepts Slack's and many other addresses.
NAME = f"{TAG}-notifications"
#: Apprise's severities; each severity needs its own block.
SEVERITIES = ("failure", "warning", "success")
#: Automations and blocks of earlier versions, which are removed from the server.
FORMER_AUTOMATIONS, FORMER_BLOCKS = (f"{TAG}-notify-trouble",), (NAME,)
#: Process, hook and worker may each report a crash. Reports within this time count as one crash.
_ONE_CRASH = datetime.timedelta(minutes=2)
_LINK = "{% if flow_run|ui_url %}\n{{ flow_run|ui_url }}{% endif %}"
_STATE = "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}" + _LINK
_CRASH = (
    "{{ flow_run.name }} crashed at {{ event.occurred.strftime('%H:%M:%S') }} UTC: its process "
    f"ended. Nothing is lost: its jobs keep running. {{% if flow_run.run_count < {MAX_RUNS} %}}It "
    f"starts again within two minutes, time {{{{ flow_run.run_count + 1 }}}} of {MAX_RUNS}."
    "{% endif %}" + _LINK
)


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
    """Return a Prefect trigger for events of mswitch's flow runs, such as the state `Failed`."""
    tags = [f"prefect.tag.{tag}" for tag in TAGS]
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=[{"prefect.resource.role": "tag", "prefect.resource.id": tags}, *related],
        expect={f"prefect.flow-run.{name}" for name in expect},
        **options,
    )


def read_address(settings: Notifications) -> str:
    """Return the address that receives messages; it is a secret."""
    from apprise import Apprise

    given = os.environ.get(settings.url_variable, "")
    if not given or not Apprise().add(given):
        problem = "is not an address that Apprise knows" if given else "is not set"
        raise UserError(
            f"${settings.url_variable} of [notifications] in {FILE} {problem}: set it to a Slack "
            "webhook, or another URL such as mailto:// or jsons://"
        )
    return given


def name_block(severity: str) -> str:
    """Return the name of the Prefect block that sends messages of a severity, such as `warning`."""
    return f"{NAME}-{severity}"


def find_block(client: SyncPrefectClient, name: str) -> tuple[UUID, str] | None:
    """Return the block's id and address, if the server has it."""
    try:
        block = client.read_block_document_by_name(name, SlackWebhook.get_block_type_slug())
    except ObjectNotFound:
        return None
    return block.id, block.data["url"]


def save_block(severity: str, url: str) -> None:
    """Save the address of a Slack webhook on the Prefect server, which encrypts it."""
    block: Any = SlackWebhook(url=url, notify_type=severity)  # pyright: ignore[reportArgumentType]
    block.save(name_block(severity), overwrite=True)


def make_automations(blocks: Mapping[str, UUID]) -> list[AutomationCore]:
    """Return automations that notify people; `blocks` maps severities to Prefect blocks' ids."""
    compared = {
        "prefect.resource.role": "flow",
        "prefect.resource.name": ["pretrain-pair", "experiment"],
    }
    crash = make_flow_run_trigger(("Crashed",), for_each={"prefect.resource.id"}, within=_ONE_CRASH)
    stall = EventTrigger(match={"prefect.resource.id": "mswitch.job.*"}, expect={STALLED})
    waits = make_flow_run_trigger((AWAITING_APPROVAL,))
    done = make_flow_run_trigger(("Completed",), compared)
    goes_on = "flow_run.state_type.value in ['CRASHED', 'SCHEDULED', 'PENDING', 'RUNNING']"
    rows = (
        ("failed", "failure", make_flow_run_trigger(("Failed",)), _is_still("FAILED"), _STATE),
        ("crashed", "warning", crash, goes_on, _CRASH),
        ("approval", "warning", waits, _is_still("PAUSED"), _STATE),
        ("verdict", "success", done, _is_still("COMPLETED"), _STATE),
        ("stalled", "warning", stall, "true", "{{ event.payload.message }}"),
    )

    def message(severity: str, condition: str, *texts: str) -> SendNotification:
        # If the condition no longer holds, such as after a restart of the server, the message is
        # late. Then subject and body are empty, and Apprise sends nothing.
        subject, body = (f"{{% if {condition} %}}{text}{{% endif %}}" for text in texts)
        return SendNotification(block_document_id=blocks[severity], subject=subject, body=body)

    return [
        AutomationCore(
            name=f"{TAG}-notify-{name}",
            description=f"Messages of mswitch: {name}.",
            trigger=trigger,
            actions=[message(severity, condition, f"{TAG}: {name}", text)],
        )
        for name, severity, trigger, condition, text in rows
    ]


def _is_still(state: str) -> str:
    return f"flow_run.state_type.value == '{state}'"
