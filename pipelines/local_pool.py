"""Worker processes for the local runner.

A process per core does lists of tasks (`mswitch.pipelines.file_tasks`), through `call_each`.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from typing import Any, TypeVar

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.garbage import collect_rarely

A = TypeVar("A")
T = TypeVar("T")

#: Modules to import once, in the server that workers are forked from; none imports Beam.
PRELOAD = [
    "mswitch.pipelines.corpus.shard_work",
    "mswitch.pipelines.corpus.output_shards",
    "mswitch.pipelines.examples.shards",
    "mswitch.pipelines.corpus.warm_up",
]

#: Worker processes older than this are replaced before the next list of tasks. Their free memory is
#: fragmented, so the next list can seldom use it.
_RENEW_SECS = 8.0


class WorkerDiedError(UserError):
    """A worker process was killed, or aborted in a library."""


class _Note(ctypes.Structure):
    """Current work of a worker, and the time of its start on the clock that all processes share."""

    _fields_ = (("since", ctypes.c_double), ("work", ctypes.c_char * 256))


class _Workers:
    """Worker processes, their age, and notes on their current work.

    Notes are in shared memory: they can be read even while a worker hangs in a library.
    """

    def __init__(self, count: int):
        self.count = count
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.notes = context.RawArray(_Note, self.count)
        self.begun = context.Value("i", 0)
        # Pass the environment, because the server that forks workers may have an older environment.
        arguments = (storage.used_options(), dict(os.environ), self.notes, self.begun)
        self.executor = ProcessPoolExecutor(
            self.count, context, initializer=_begin, initargs=arguments
        )
        self._since = time.monotonic()

    def renew(self) -> None:
        """Replace old workers; call this only if no worker is working."""
        if time.monotonic() - self._since > _RENEW_SECS:
            self.executor.shutdown()
            self._start()


_pools: list[_Workers] = []
#: In a worker process: the `_Note` on its current work. In other processes: empty.
_notes: list[_Note] = []


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server(modules: Sequence[str] = ()) -> None:
    """Start the server that workers are forked from, in the background.

    It imports `PRELOAD` and `modules`. Server and workers ignore Ctrl-C, which a terminal sends to
    all: they end with their parent.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, *modules])
    # Start the resource tracker before SIGINT is blocked, because its start unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def local_pool(workers: int) -> Iterator[None]:
    """Let `call_each` use this many worker processes within a `with` block.

    Even a single worker is a process of its own. If damaged input aborts it in a library, its
    parent can report that. And CLD3 crashes in a process that imported TensorFlow first.
    """
    start_server()
    pool = _Workers(workers)
    _pools.append(pool)
    try:
        yield
    finally:
        _pools.clear()
        pool.executor.shutdown(cancel_futures=True)


def call_each(function: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """Call a function of a module with each item, in worker processes if a pool is open.

    Raises:
        WorkerDiedError: a worker process died, which ends the work of all others.
    """
    if not _pools:
        return [function(item) for item in items]
    pool = _pools[0]
    pool.renew()
    futures: list[Future[T]] = []
    try:
        futures += [pool.executor.submit(_work, function, item) for item in items]
        for future in as_completed(futures):
            future.result()
    except BrokenProcessPool as error:
        if not pool.begun.value:
            raise UserError(
                "worker processes cannot start: they import the script that is run, so put its "
                "statements below `if __name__ == '__main__':`"
            ) from error
        # It is unknown which worker died, so name the work of all workers.
        noted = (current.work.decode(errors="replace") for current in pool.notes if current.work)
        at = ", ".join(work.removeprefix("at ") for work in noted)
        hint = f"; it was at {at}: if it dies there again, leave out that file" if at else ""
        raise WorkerDiedError(
            "a worker process was killed, perhaps for lack of memory: run the same command again, "
            f"it continues; --direct_num_workers=1 after -- needs the least memory{hint}"
        ) from error
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]


def note(work: str) -> None:
    """Note this worker's current work, so that its parent can print it; "" means no work."""
    for mine in _notes:
        mine.since, mine.work = time.monotonic(), work.encode(errors="replace")[:255]


def longest_note() -> str:
    """Return the longest current work of any worker and its duration, or ""."""
    notes = [(now.since, now.work) for pool in _pools for now in pool.notes if now.work]
    if not notes:
        return ""
    since, work = min(notes)
    return f"{work.decode(errors='replace')} for {time.monotonic() - since:.0f} s"


def _work(function: Callable[[A], T], item: A) -> T:
    try:
        return function(item)
    finally:
        note("")


def _begin(
    storage_options: dict[str, Any], environment: dict[str, str], notes: Any, begun: Any
) -> None:
    with begun.get_lock():
        _notes.append(notes[begun.value])
        begun.value += 1
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    storage.use_options(storage_options)
    collect_rarely()


def _die_with_parent() -> None:
    """End this worker if the build is killed, so that it does not write any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
