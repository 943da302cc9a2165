"""Steps of flows: Prefect tasks that refuse in one line, and pass on what is said in them."""

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

#: What a Prefect server that cannot be reached raises. A job is followed all the same.
SERVER_ERRORS = (httpx.HTTPError, PrefectException)
#: How often lines are passed on to the server.
LOG_SECS = 1.0


class Step:
    """A task that raises what its state Failed holds, also where it is called like a function."""

    def __init__(self, made: Task[..., Any]):
        self._task = made
        self.submit = made.submit

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run it here and now."""
        result = self._task(*arguments, **named)
        return result.result() if isinstance(result, State) else result


def step(name: str, **options: Any) -> Callable[[Callable[..., Any]], Step]:
    """Make a task of a function: its lines go to Prefect, what the user got wrong is one line.

    Args:
        name: of the task runs, with fields such as `{preset}`.
        options: of Prefect's `task`.
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
    """Show that this task run does not go on: Prefect leaves it Running when its flow run does."""
    with contextlib.suppress(*SERVER_ERRORS), get_client(sync_client=True) as client:
        state = Cancelled(message="The process of the flow run left it.")
        client.set_task_run_state(UUID(this_task_run.id), state, force=True)


class SlowLog:
    """Passes lines on every `LOG_SECS` at most, those that come in between together."""

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._waiting: list[str] = []
        self._last = -math.inf

    def __call__(self, lines: Sequence[str]) -> None:
        """Log the lines, now or with later ones."""
        self._waiting += lines
        if time.monotonic() - self._last >= LOG_SECS:
            self.flush()

    def flush(self) -> None:
        """Log what waits."""
        if self._waiting:
            self._log("\n".join(self._waiting))
        self._waiting, self._last = [], time.monotonic()
