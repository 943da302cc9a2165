"""Steps of flows, as Prefect tasks."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import httpx
from prefect import Task, get_client, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, Pause, PrefectException
from prefect.runtime import task_run as this_task_run
from prefect.states import Cancelled, Failed

from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import lines_to

#: Errors if a Prefect server cannot be reached. A job is followed nevertheless.
SERVER_ERRORS = (httpx.HTTPError, PrefectException)
#: Fewest seconds between uploads of log lines to the server.
LOG_SECS = 1.0


class Step:
    """A Prefect task whose call raises the task's error instead of returning a failed state."""

    def __init__(self, made: Task[..., Any]):
        self._task = made
        self.submit = made.submit

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the task in this thread."""
        result = self._task(*arguments, **named)
        return result.result() if isinstance(result, State) else result


def step(name: str, **options: Any) -> Callable[[Callable[..., Any]], Step]:
    """Make a Prefect task of a function; Prefect shows its log, and a user's error as one line.

    `name` names the task runs, with fields such as `{preset}`. `options` are those of Prefect's
    `task`.
    """

    def decorate(function: Callable[..., Any]) -> Step:
        @functools.wraps(function)
        def attempt(*arguments: Any, **named: Any) -> Any:
            log = SlowLog(get_run_logger().info)
            try:
                with lines_to(log):
                    return function(*arguments, **named)
            except Exception as error:
                refusal = error if isinstance(error, UserError) else as_user_error(error)
                if refusal is None:
                    raise
                return Failed(message=str(refusal), data=refusal)
            except (Pause, Abort):
                end_task_run()
                raise
            finally:
                log.flush()

        return Step(task(task_run_name=name, persist_result=False, **options)(attempt))

    return decorate


def end_task_run() -> None:
    """Set this task run to Cancelled; Prefect leaves it Running after Pause or Abort."""
    with contextlib.suppress(*SERVER_ERRORS), get_client(sync_client=True) as client:
        state = Cancelled(message="The process of the flow run left it.")
        client.set_task_run_state(UUID(this_task_run.id), state, force=True)


class SlowLog:
    """Passes lines on, at most once in `LOG_SECS`; lines in between are collected."""

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._waiting: list[str] = []
        self._last = -math.inf

    def __call__(self, lines: Sequence[str]) -> None:
        """Log the lines, or keep them for a later call."""
        self._waiting += lines
        if time.monotonic() - self._last >= LOG_SECS:
            self.flush()

    def flush(self) -> None:
        """Log the collected lines."""
        if self._waiting:
            self._log("\n".join(self._waiting))
        self._waiting, self._last = [], time.monotonic()
