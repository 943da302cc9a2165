"""The nightly flow: add the newest dump to a corpus, make examples, train a pair, and report.

Each step is a run of another deployment, which has its own jobs, retries, cost limit and Suspend.
"""

import contextlib
import datetime
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect import State, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, Pause
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Cancelled, Cancelling

from mswitch.flows.prefect.flows.corpus import find_newest_dump
from mswitch.flows.prefect.follow import STATE_SECS, lift_time_limit
from mswitch.flows.prefect.form_defaults import RefreshSettings
from mswitch.flows.prefect.form_fields import JobCancelledError, settings_flow
from mswitch.flows.prefect.operators_toml import make_deployment_path, read_operators
from mswitch.flows.prefect.owners import crash_hook, withdraw_jobs
from mswitch.flows.prefect.steps import SERVER_ERRORS, step
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER
from mswitch.pipelines.progress import say

#: `reconcile`, every two minutes, will not restart a run that was Crashed for longer than this.
CRASHED_SECS = 1800
PREVIOUS = "{previous}"
#: Values that mean “run no deployment” in a field with a deployment's name. Forms cannot send an
#: empty name.
NONE = ("", "none")


def cancel_stages(flow: Any, flow_run: Any, state: Any) -> None:
    """Cancel the runs that this flow run started. Prefect prescribes the arguments' names."""
    of_this = FlowRunFilterParentFlowRunId(any_=[flow_run.id])
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=of_this)):
            if run.state is not None and run.state.is_crashed():
                client.set_flow_run_state(run.id, Cancelled(), force=True)
                withdraw_jobs(read_operators(), run.id)
            elif run.state is None or not run.state.is_final():
                client.set_flow_run_state(run.id, Cancelling())


@settings_flow(
    "refresh",
    "refresh {corpus}",
    {"on_cancellation": [cancel_stages], "on_crashed": [crash_hook]},
)
def refresh(settings: RefreshSettings) -> str | None:
    """Add the newest crawl or files to a corpus, make examples, train two models, and compare them.

    Finished outputs are reused: with `{dump}` in the names, nothing happens until a new dump.
    """
    operators = read_operators()
    if operators.flow_runs < 2:
        raise UserError(
            "flow_runs of operators.toml is 1, but this flow and the run that it starts need one "
            "each: give at least 2"
        )
    check_vocabulary_stays(settings)
    scheduled = this_flow_run.get_scheduled_start_time()
    date = scheduled.astimezone(ZoneInfo(settings.timezone)).date().isoformat()
    dump = settings.dump
    added: dict[str, Any] = {"inputs": [path.replace("{date}", date) for path in settings.inputs]}
    if not settings.inputs:
        dump = find_newest_dump(str(operators.common_crawl_list)) if dump == "latest" else dump
        added = {"dump": dump}
    last: FlowRun | None = None
    if settings.append_deployment not in NONE:
        last = run_to_end(settings.append_deployment, {"name": settings.corpus, **added})
        # The child run may be from an earlier day and have an older dump.
        dump = last.parameters.get("dump", dump)
    examples, pair = (
        name.format(dump=dump, date=date) for name in (settings.examples, settings.pair)
    )
    if settings.examples_deployment not in NONE:
        own = {**settings.examples_parameters, "name": examples, "corpus": settings.corpus}
        last = run_to_end(settings.examples_deployment, own)
        examples = last.parameters["name"]
    if settings.pair_deployment not in NONE:
        own = {**settings.pair_parameters, "name": pair, "examples": examples}
        if own.get("begin_with") == PREVIOUS:
            own["begin_with"] = find_previous_pair(operators.storage, settings.pair, pair)
        last = run_to_end(settings.pair_deployment, own)
    return last.state.message if last and last.state else "nothing to do"


@step("preflight")
def check_vocabulary_stays(settings: RefreshSettings) -> None:
    """Refuse to continue the training of earlier models if the vocabulary would change."""
    if {settings.examples_deployment, settings.pair_deployment} & {*NONE}:
        return
    pair = _read_parameters(settings.pair_deployment) | settings.pair_parameters
    examples = _read_parameters(settings.examples_deployment) | settings.examples_parameters
    if pair.get("begin_with") and not examples.get("vocabulary_file"):
        raise UserError(
            f"begin_with {pair['begin_with']} needs examples with the vocabulary of that pair, but "
            "each night would train a new one: give vocabulary_file in examples_parameters"
        )


def _read_parameters(deployment: str) -> dict[str, Any]:
    with _need_deployment(deployment), get_client(sync_client=True) as client:
        return client.read_deployment_by_name(make_deployment_path(deployment)).parameters


@contextlib.contextmanager
def _need_deployment(deployment: str) -> Iterator[None]:
    try:
        yield
    except ObjectNotFound as error:
        raise UserError(
            f"there is no deployment {deployment}: `mswitch deploy` makes it"
        ) from error


def find_previous_pair(storage: Path, template: str, name: str) -> str:
    """Return the last finished model pair whose name sorts before `name`; empty if none does.

    Only names of the form `template` count. Names of dates and dumps sort by time.
    """
    pattern = re.escape(template).replace(r"\{date\}", r"\d{4}-\d\d-\d\d")
    pattern = pattern.replace(r"\{dump\}", r"CC-MAIN-[\d-]+")
    reports = (storage / "pairs").glob(f"*/report/{MARKER}")
    names = (path.parents[1].name for path in reports)
    return max((pair for pair in names if pair < name and re.fullmatch(pattern, pair)), default="")


def run_to_end(deployment: str, parameters: Mapping[str, Any]) -> FlowRun:
    """Run a deployment and wait for its end; a restarted flow run does not run it again.

    Raises:
        UserError: it failed or was deleted.
        JobCancelledError: it was cancelled.
    """
    # With the same key, Prefect returns the same run.
    key = f"{this_flow_run.id}-{deployment}"
    with _need_deployment(deployment):
        run: Any = run_deployment(
            make_deployment_path(deployment),
            parameters=dict(parameters),
            timeout=0,
            idempotency_key=key,
        )
    say("refresh", f"started {deployment}")
    while True:
        try:
            with get_client(sync_client=True) as client:
                _obey(client)
                run = client.read_flow_run(run.id)
        except ObjectNotFound as error:
            raise UserError(f"{deployment} was deleted ({run.name})") from error
        except SERVER_ERRORS:
            pass  # no answer: try again
        state = run.state
        if state is not None and state.is_final() and not _starts_again(state):
            break
        time.sleep(STATE_SECS)
    if state.is_cancelled():
        raise JobCancelledError(f"{deployment} was cancelled ({run.name})")
    if not state.is_completed():
        raise UserError(f"{deployment} failed ({run.name}): {state.message}")
    return run


def _starts_again(state: State) -> bool:
    age = datetime.datetime.now(datetime.UTC) - state.timestamp
    return state.is_crashed() and age.total_seconds() < CRASHED_SECS


def _obey(client: Any) -> None:
    """Raise Pause if this flow run is suspended; its child flow run continues."""
    own = UUID(this_flow_run.id)
    state = lift_time_limit(client, own, client.read_flow_run(own).state)
    if state is not None and state.is_paused():
        raise Pause(state=state)
