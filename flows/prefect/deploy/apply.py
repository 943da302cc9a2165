"""Compare a Prefect server with the table of deployments, and update it."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from mswitch.flows.prefect.deploy import automations, deployments
from mswitch.flows.prefect.operators_toml import HOUSEKEEPING, Operators, make_deployment_path
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import canonical_json


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object that the server must have, or must no longer have.

    Attributes:
        name: kind and name, as shown.
        wanted: its settings; None to remove it.
        found: its settings on the server; None if it does not exist there.
        write: creates, updates or removes it.
    """

    name: str
    wanted: Mapping[str, Any] | None
    found: Mapping[str, Any] | None
    write: Callable[[], object]

    def difference(self) -> list[str]:
        """Return a line for each difference between the server's object and the wanted one."""
        if self.wanted is None:
            return [f"- {self.name}"]
        if self.found is None:
            return [f"+ {self.name}"]
        return [
            f"~ {self.name}: {key}: {_shorten(self.found.get(key))} -> {_shorten(value)}"
            for key, value in self.wanted.items()
            if self.found.get(key) != value
        ]


def deploy(operators: Operators, operators_file: Path | None, *, write: bool) -> list[str]:
    """Compare the server with the table of deployments, and update it if `write`.

    Workers read `operators_file`.

    Returns:
        The differences, as lines.
    """
    deployments.check_schedules(operators)
    with connect(operators) as client:
        lines = []
        for thing in _list_things(client, operators, operators_file):
            difference = thing.difference()
            lines += difference
            if difference and write:
                thing.write()
        return lines


@contextlib.contextmanager
def connect(operators: Operators) -> Iterator[SyncPrefectClient]:
    """Yield a client of the server.

    Raises:
        UserError: the server does not answer, or requires a password.
    """
    address = str(operators.server)
    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        try:
            client.hello()
            yield client
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            raise UserError(
                f"the Prefect server {address} requires a password: set PREFECT_API_AUTH_STRING in "
                "the environment to user:password"
            ) from error
        except httpx.TransportError as error:
            raise UserError(
                f"the Prefect server {address} does not answer ({type(error).__name__}): start it "
                "(`prefect server start`), name another in operators.toml, or give --serve"
            ) from error


def _list_things(
    client: SyncPrefectClient, operators: Operators, operators_file: Path | None
) -> Iterator[Thing]:
    yield _compare_work_pool(client, operators)
    yield _compare_work_queue(client, operators, deployments.QUEUE, operators.flow_runs)
    # The reconciler needs its own work queue, without a limit on flow runs. In a queue that has
    # reached its limit, even a flow run of high priority waits.
    yield _compare_work_queue(client, operators, HOUSEKEEPING, None)
    for deployment in deployments.DEPLOYMENTS:
        yield _compare_deployment(client, deployment, operators, operators_file)
    yield _compare_automation(client, automations.make_zombie_automation())
    yield from _list_notifications(client, operators)


def _list_notifications(client: SyncPrefectClient, operators: Operators) -> Iterator[Thing]:
    blocks: dict[str, UUID] = dict.fromkeys(automations.SEVERITIES, UUID(int=0))
    names, gone = [*automations.FORMER_AUTOMATIONS], [*automations.FORMER_BLOCKS]
    if operators.notifications is None:
        names += [automation.name for automation in automations.make_automations(blocks)]
        gone += map(automations.name_block, automations.SEVERITIES)
    for name in names:
        for before in client.read_automations_by_name(name):
            delete = functools.partial(client.delete_automation, before.id)
            yield Thing(f"automation {name}", None, {}, delete)
    for name in gone:
        if (block := automations.find_block(client, name)) is not None:
            delete = functools.partial(client.delete_block_document, block[0])
            yield Thing(f"block {name}", None, {}, delete)
    if operators.notifications is None:
        return
    # The address is a secret: it is never shown.
    url, state = (
        automations.read_address(operators.notifications),
        f"as in ${operators.notifications.url_variable}",
    )
    for severity in automations.SEVERITIES:
        name = automations.name_block(severity)
        before = automations.find_block(client, name)
        shown = None if before is None else {"url": state if before[1] == url else "another"}
        yield Thing(
            f"block {name}",
            {"url": state},
            shown,
            functools.partial(automations.save_block, severity, url),
        )
        # In a dry run, the block is perhaps missing.
        block = automations.find_block(client, name)
        blocks |= {severity: block[0]} if block else {}
    for automation in automations.make_automations(blocks):
        yield _compare_automation(client, automation)


def _compare_work_pool(client: SyncPrefectClient, operators: Operators) -> Thing:
    name = operators.pool
    wanted = {"type": "process", "concurrency_limit": None}
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        create = WorkPoolCreate(name=name, **wanted)
        return Thing(f"work pool {name}", wanted, None, lambda: client.create_work_pool(create))
    if pool.type != "process":
        raise UserError(
            f"work pool {name} has type {pool.type}, but flows need type process, because they "
            "lock files in the storage and call schedulers: give another pool in operators.toml"
        )
    present = {"type": pool.type, "concurrency_limit": pool.concurrency_limit}
    update = WorkPoolUpdate(concurrency_limit=None)
    return Thing(
        f"work pool {name}", wanted, present, lambda: client.update_work_pool(name, update)
    )


def _compare_work_queue(
    client: SyncPrefectClient, operators: Operators, name: str, limit: int | None
) -> Thing:
    pool, wanted = operators.pool, {"concurrency_limit": limit}
    shown = f"work queue {pool}/{name}"
    try:
        queue = client.read_work_queue_by_name(name, pool)
    except ObjectNotFound:
        create = functools.partial(client.create_work_queue, work_pool_name=pool, **wanted)
        return Thing(shown, wanted, None, lambda: create(name))
    present = {"concurrency_limit": queue.concurrency_limit}
    # Prefect's synchronous client has no method to update a queue.
    update = functools.partial(client.request, "PATCH", "/work_queues/{id}", json=wanted)
    return Thing(shown, wanted, present, lambda: update(path_params={"id": queue.id}))


#: Settings that have other names in Prefect's client.
_OTHER_NAMES = ("form", "concurrency", "schedules")


def _compare_deployment(
    client: SyncPrefectClient,
    deployment: deployments.Deployment,
    operators: Operators,
    operators_file: Path | None,
) -> Thing:
    name, before = f"deployment {deployment.name}", None
    with contextlib.suppress(ObjectNotFound):
        before = client.read_deployment_by_name(make_deployment_path(deployment.name))
    present = before.schedules if before is not None else []
    schema = deployments.make_schema(deployment, operators)
    schedules = deployments.list_schedules(deployment, operators, present)
    wanted: dict[str, Any] = {
        "entrypoint": deployment.entrypoint,
        "work_pool_name": operators.pool,
        "work_queue_name": deployment.queue,
        "parameters": deployment.parameters,
        "description": deployment.flow.description,
        "tags": deployments.list_tags(deployment, operators),
        "job_variables": deployments.make_job_variables(
            operators_file, deployments.find_further(deployment, operators)
        ),
        "form": _hash(schema),
        "enforce_parameter_schema": True,
        "concurrency": deployment.concurrency,
        "schedules": _describe_schedules(schedules),
    }

    def write() -> None:
        if before is not None and not any(schedule.active for schedule in schedules):
            for schedule in present:  # unlike an update, deleting a schedule removes its late runs
                client.delete_deployment_schedule(before.id, schedule.id)
        limit, options = None, None
        if deployment.concurrency is not None:
            limit, strategy = deployment.concurrency
            options = ConcurrencyOptions(collision_strategy=strategy)
        client.create_deployment(
            flow_id=client.create_flow_from_name(deployment.flow.name),
            name=deployment.name,
            schedules=schedules,
            concurrency_limit=limit,
            concurrency_options=options,
            path=".",
            parameter_openapi_schema=schema,
            pull_steps=[],
            **{key: wanted[key] for key in wanted if key not in _OTHER_NAMES},
        )

    if before is None:
        return Thing(name, wanted, None, write)
    settings = {key: getattr(before, key, None) for key in wanted}
    settings["form"] = _hash(before.parameter_openapi_schema)
    limit, options = before.global_concurrency_limit, before.concurrency_options
    settings["concurrency"] = (
        (limit.limit, options.collision_strategy.value)
        if limit is not None and options is not None
        else None
    )
    settings["schedules"] = _describe_schedules(present)
    return Thing(name, wanted, settings, write)


def _describe_schedules(schedules: Sequence[Any]) -> list[str]:
    return sorted(
        f"{getattr(schedule.schedule, 'cron', schedule.schedule)} {schedule.schedule.timezone}, "
        f"{'on' if schedule.active else 'off'}, from {schedule.slug or 'a person'}"
        + (f", with {canonical_json(schedule.parameters)}" if schedule.parameters else "")
        for schedule in schedules
    )


def _compare_automation(client: SyncPrefectClient, wanted: AutomationCore) -> Thing:
    def settings(automation: AutomationCore) -> Any:
        return _sort(automation.model_dump(mode="json", exclude={"owner_resource"}))

    name, before = f"automation {wanted.name}", client.read_automations_by_name(wanted.name)
    if not before:
        return Thing(name, settings(wanted), None, lambda: client.create_automation(wanted))
    wanted.enabled = before[0].enabled
    update = functools.partial(client.update_automation, before[0].id, wanted)
    return Thing(name, settings(wanted), settings(before[0]), update)


def _sort(value: Any) -> Any:
    """Return the value without ids, with sorted lists, for a comparison without order.

    The order of keys does not count either: PostgreSQL changes it.
    """
    if isinstance(value, dict):
        return {key: _sort(item) for key, item in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_sort(item) for item in value), key=canonical_json)
    return value


def _hash(schema: Any) -> str:
    return hashlib.sha256(canonical_json(schema).encode()).hexdigest()[:12]


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
