"""Messages that Prefect sends: a block with the address, and automations that use it."""

import os
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound

from mswitch.flows.prefect.approval import AWAITING_APPROVAL
from mswitch.flows.prefect.deploy.heartbeats import of_flow_runs
from mswitch.flows.prefect.operators_toml import FILE, TAG, Notifications
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
    trouble = of_flow_runs(("Failed", "Crashed", AWAITING_APPROVAL))
    compared = {
        "prefect.resource.role": "flow",
        "prefect.resource.name": ["pretrain-pair", "experiment"],
    }
    verdict = of_flow_runs(("Completed",), compared)
    stalled = EventTrigger(match={"prefect.resource.id": "mswitch.job.*"}, expect={STALLED})
    return [
        AutomationCore(
            name=f"{TAG}-notify-{name}",
            description=description,
            trigger=trigger,
            actions=[SendNotification(block_document_id=block, subject=TAG, body=body)],
        )
        for name, description, trigger, body in (
            ("trouble", "Flow runs that failed, crashed or wait.", trouble, _ABOUT_RUN),
            ("verdict", "Pairs and experiments.", verdict, _ABOUT_RUN),
            ("stalled", "Jobs without progress.", stalled, "{{ event.payload.message }}"),
        )
    ]
