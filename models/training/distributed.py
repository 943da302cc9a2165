"""Let processes join a job, agree on its settings and leave it, for training or evaluating.

Every process runs the same program on its own devices. Only process 0 writes files other than
checkpoints, and all processes use what it reads in the run directory. A process that fails must not
wait for the others at exit, nor they for it: JAX's coordination service ends them.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

from mswitch.models.config import JobConfig
from mswitch.models.device_errors import check_devices, explain_memory
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.lease import LeaseLostError
from mswitch.pipelines.objects import BucketError
from mswitch.pipelines.progress import say

T = TypeVar("T")

#: Text in the error of a process that waited for another process. If an error without this text
#: exists too, the job reports that error, because it is the cause.
WAITED = "gave up waiting for another process"
#: Seconds that a finished process waits for the others to finish.
_LEAVING_SECS = 60
#: Seconds that a process waits for the others after it uploaded its part of a checkpoint.
_SENDING_SECS = 3600
#: Errors that keep their type in every process, because `open_files` handles them specially.
_SHARED_ERRORS = {kind.__name__: kind for kind in (LeaseLostError, BucketError)}


class JobError(UserError):
    """An error that every process of the job raises at the same point."""


def is_first() -> bool:
    """Return whether this is the process that writes files and logs."""
    return jax.process_index() == 0


def say_once(stage: str, message: str) -> None:
    """Log the progress of a stage, once per job."""
    if is_first():
        say(stage, message)


@contextlib.contextmanager
def membership(job: JobConfig, *, saves_on_sigterm: bool = True) -> Iterator[None]:
    """Join the job; at the end, wait for the other processes unless only this process failed.

    `saves_on_sigterm` leaves SIGTERM to JAX's preemption service, so that all agree on a step.
    """
    if not job.shared:
        check_devices()
        with explain_memory():
            yield
        return
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    try:
        _join(job)
        with explain_memory():
            yield
    except (JobError, SystemExit):
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        if _is_device_error(error):
            # A step on several machines fails as soon as a connection breaks.
            reason = str(error).strip().splitlines()[0]
            say("job", f"a step failed ({reason}): another process may be lost; start again")
        if _is_device_error(error) or isinstance(error, LeaseLostError):
            _leave_without_waiting(RESUME)
            sys.exit(RESUME)
        _leave_without_waiting(_choose_exit_code(error))
        raise
    else:
        jax.distributed.shutdown()


def _is_device_error(error: BaseException) -> bool:
    """Return whether an error means that a program failed on a device.

    For a repeated call, `jit` raises a ValueError. If Orbax waits for a lost process, it raises a
    TimeoutError from the error.
    """
    if isinstance(error, TimeoutError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, jax.errors.JaxRuntimeError):
        return True
    return isinstance(error, ValueError) and re.match(r"[A-Z_]+: ", str(error)) is not None


def _choose_exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError) else 1


def _join(job: JobConfig) -> None:
    if job.process_id == 0 and job.coordinator_address is not None:
        _check_port(job.coordinator_address)
    try:
        jax.distributed.initialize(
            job.coordinator_address,
            job.num_processes,
            job.process_id,
            heartbeat_timeout_seconds=job.heartbeat_timeout_secs,
            shutdown_timeout_seconds=_LEAVING_SECS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot join the job ({reason}): give --coordinator-address HOST:PORT, "
            "--num-processes and --process-id"
        ) from error
    check_devices()
    meet("joined")


def _check_port(coordinator_address: str) -> None:
    """Check that process 0 can listen at this port; JAX would crash if another program uses it."""
    try:
        socket.create_server(("", int(coordinator_address.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--coordinator-address {coordinator_address}: process 0 cannot use that port "
            f"({error}); give a free one"
        ) from error


def _leave_without_waiting(code: int) -> None:
    """Let this process end with `code` before JAX's exit handler waits for the other processes."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)


def meet(where: str) -> None:
    """Wait until every process of the job has called this.

    Call it before devices first exchange data: Gloo, which CPUs use, waits only 30 seconds for a
    peer to start.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def meet_in_background(where: str) -> None:
    """Wait in a background thread until all processes call this with the same, new `where`."""
    get_barrier_sync_fn()(key=where, timeout_ms=_SENDING_SECS * 1000)


def on_first(make: Callable[[], T]) -> T:
    """Call `make` in process 0 and return its result in all processes, passed as JSON.

    Its error is raised in all processes as a JobError, or as itself if it is in `_SHARED_ERRORS`.
    Process 0 raises a defect itself.
    """
    if jax.process_count() == 1:
        return make()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": make()}
        except Exception as error:
            kind = type(error).__name__
            if not (message := str(error) if kind in _SHARED_ERRORS else _format_for_user(error)):
                _gather({"error": f"process 0 failed: {error!r}"})
                raise
            answer = {"error": message, "kind": kind}
    answer = _gather(answer)[0]
    if "error" in answer:
        raise _SHARED_ERRORS.get(answer.get("kind", ""), JobError)(answer["error"])
    return answer["value"]


def together(make: Callable[[], T]) -> T:
    """Call `make` in every process; if any raises a UserError, raise a JobError in all processes.

    The JobError has the text of the first error without `WAITED`, else of the first error.
    """
    if jax.process_count() == 1:
        return make()
    made, error = None, ""
    try:
        made = make()
    except UserError as raised:
        error = f"process {jax.process_index()}: {raised}"
    if failed := [text for text in _gather(error) if text]:
        raise JobError(min(failed, key=lambda text: WAITED in text))
    return made  # pyright: ignore[reportReturnType]  # every process made it


def agree(settings: str) -> None:
    """Check that all processes have the same settings; else they would wait for each other."""
    first, *others = _gather(settings)
    for number, other in enumerate(others, start=1):
        if other != first:
            raise JobError(
                f"processes 0 and {number} were given different options, or another run: give the "
                "same command on all machines"
            )


def _gather(value: Any) -> list[Any]:
    """Return the values of all processes in their order, passed as JSON."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    texts = multihost_utils.process_allgather(np.resize(text, int(sizes.max())))
    return [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]


def _format_for_user(error: Exception) -> str:
    """Return the text of an error for users, or "" if the error is a defect of mswitch."""
    return str(as_user_error(error) or "")
