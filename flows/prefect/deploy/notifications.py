"""Messages that Prefect sends: a block with the address, and automations that use it."""

import datetime
import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from mswitch.flows.prefect.approval import AWAITING_APPROVAL
from mswitch.flows.prefect.operators_toml import FILE, TAG, TAGS, Notifications
from mswitch.flows.prefect.stalled_jobs import STALLED
from mswitch.pipelines.errors import UserError

#: The block's name. Apprise, with which it sends, takes Slack's and many other addresses.
NAME = f"{TAG}-notifications"
_ABOUT_RUN = "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}"


def address(settings: Notifications) -> str:
    """Where messages go, which is a secret."""
    from apprise import Apprise

    given = os.environ.get(settings.url_variable, "")
    if not given or not Apprise().add(given):
        problem = "is not an address that Apprise knows" if given else "is not set"
        raise UserError(
            f"${settings.url_variable} {problem}, and [notifications] of {FILE} names it: set it "
            "to a Slack webhook, or another URL such as mailto:// or jsons://"
        )
    return given


def find_block(client: SyncPrefectClient) -> tuple[UUID, str] | None:
    """The block's id and address, if the server has it."""
    try:
        found = client.read_block_document_by_name(NAME, SlackWebhook.get_block_type_slug())
    except ObjectNotFound:
        return None
    return found.id, found.data["url"]


def save_block(url: str) -> None:
    """Give the server the address, which it keeps encrypted."""
    SlackWebhook(url=url).save(NAME, overwrite=True)  # pyright: ignore[reportArgumentType]


def automations(block: UUID) -> list[AutomationCore]:
    """One for what went wrong or waits for a person, one for verdicts, one for jobs that stall."""
    trouble = ("Failed", "Crashed", AWAITING_APPROVAL)
    compared = [
        {"prefect.resource.role": "flow", "prefect.resource.name": ["pretrain-pair", "experiment"]}
    ]
    return [
        _automation(block, "trouble", "Flow runs that failed, crashed or wait.", trouble, []),
        _automation(block, "verdict", "Pairs and experiments.", ("Completed",), compared),
        AutomationCore(
            name=f"{TAG}-notify-stalled",
            description="Jobs without progress.",
            trigger=EventTrigger(
                match={"prefect.resource.id": "mswitch.job.*"},
                expect={STALLED},
                posture=Posture.Reactive,
                threshold=1,
                within=datetime.timedelta(0),
            ),
            actions=[_send(block, "{{ event.payload.message }}")],
        ),
    ]


def _automation(
    block: UUID, name: str, description: str, states: Sequence[str], related: Sequence[Any]
) -> AutomationCore:
    tags = [f"prefect.tag.{tag}" for tag in TAGS]
    tagged: Any = {"prefect.resource.role": "tag", "prefect.resource.id": tags}
    return AutomationCore(
        name=f"{TAG}-notify-{name}",
        description=description,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[tagged, *related],
            expect={f"prefect.flow-run.{state}" for state in states},
            posture=Posture.Reactive,
            threshold=1,
            within=datetime.timedelta(0),
        ),
        actions=[_send(block, _ABOUT_RUN)],
    )


def _send(block: UUID, body: str) -> SendNotification:
    return SendNotification(block_document_id=block, subject=TAG, body=body)
