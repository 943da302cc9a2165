"""Suspend a flow run whose expected cost exceeds its limit, until a person has decided."""

import math
from collections.abc import Callable
from typing import Any, Literal

from prefect import get_client, get_run_logger
from prefect.exceptions import Abort, Pause
from prefect.input import RunInput, delete_flow_run_input, read_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Suspended
from prefect.utilities.engine import propose_state_sync
from pydantic import Field, create_model

from mswitch.flows.prefect.cost import CostGuard, OverBudgetError
from mswitch.flows.prefect.form_fields import JobCancelledError
from mswitch.flows.prefect.show import make_key
from mswitch.pipelines.progress import say

AWAITING_APPROVAL = "AwaitingApproval"
#: Proposed limit divided by expected cost: it leaves room for restarts and evaluations.
_MARGIN = 1.2


class Approval(RunInput):
    """Form that Prefect shows when a person resumes a flow run that waits for approval.

    Attributes:
        decision: whether to continue or to cancel the flow run.
        max_cost_usd: the new limit, for the whole flow run.
    """

    decision: Literal["yes", "no"]
    max_cost_usd: float


def work_within_limit(guard: CostGuard, work: Callable[[], None]) -> None:
    """Do the work; if the limit pauses it, repeat it once a person has raised the limit."""
    while True:
        approve(guard)
        try:
            return work()
        except OverBudgetError as error:
            say("cost", str(error))


def approve(guard: CostGuard) -> None:
    """Suspend the flow run unless the cost is within the limit, or a person raised the limit.

    Raises:
        JobCancelledError: a person did not approve.
        Pause: nobody has decided yet.
    """
    log = get_run_logger()
    while guard.price is not None:
        spent, (left, basis) = guard.spent(), guard.estimate_rest()
        whole = f"about {spent + left:,.2f} USD" if left is not None else "an unknown amount"
        text = f"{spent:,.2f} USD spent, {whole} in all ({basis or 'all trainings are finished'})"
        log.info(text)
        limit, expected = guard.limit, spent + (left or 0.0)
        if limit is None or guard.is_finished() or (spent < limit and expected <= limit):
            return
        proposed = math.ceil(_MARGIN * max(expected, limit))
        answer = _ask(limit, f"The limit is {limit:,.2f} USD: {text}", proposed)
        if answer.decision == "no":
            raise JobCancelledError(f"a cost above {limit:,.2f} USD was not approved: {text}")
        guard.limit = answer.max_cost_usd
        log.info(f"approved: at most {guard.limit:,.2f} USD")


def _ask(limit: float, text: str, proposed: float) -> Approval:
    """Return a person's answer, or suspend the flow run until there is one.

    The server keeps an approval, for a flow run that starts again. A refusal is deleted, so that
    Retry asks again.

    Raises:
        Pause: nobody has answered yet.
    """
    question = f"{text}. Yes continues with the new limit below, no cancels the flow run."
    form = create_model(
        "Approval",
        __base__=Approval,
        decision=(Literal["yes", "no"], Field(description=question)),
        max_cost_usd=(
            float,
            Field(
                proposed,
                gt=limit,
                title="New limit",
                description="In USD, including what is already spent.",
            ),
        ),
    )
    keys = keyset_from_base_key(make_key("cost-above", str(limit)))
    given: Any = read_flow_run_input(keys["response"])  # synchronous here
    if given:
        if given["decision"] == "no":
            delete_flow_run_input(keys["response"])
        return form(**given)
    wanted = Suspended(message=text)
    wanted.name = AWAITING_APPROVAL
    wanted.state_details.run_input_keyset = {**keys}
    with get_client(sync_client=True) as client:
        state = propose_state_sync(client, wanted, this_flow_run.id)
    if not state.is_paused():
        raise Abort(f"the flow run is {state.name}")
    form.save(keys)
    raise Pause(state=state)
