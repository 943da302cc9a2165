"""Worker processes for the local runner.

Lists of tasks (`mswitch.pipelines.file_tasks`) are done by a process per core (`call_each`).
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

#: Imported once, by the server that workers are forked from; none of them imports Beam.
PRELOAD = [
    "mswitch.pipelines.corpus.shard_work",
    "mswitch.pipelines.corpus.output_shards",
    "mswitch.pipelines.examples.shards",
    "mswitch.pipelines.corpus.warm_up",
]

#: Workers that have been there for so long are replaced before the next list: their allocators keep
#: what the last one freed, in pieces that the next one seldom fits.
_RENEW_SECS = 8.0


class WorkerDiedError(UserError):
    """A worker process was killed, or aborted in a library."""


class _Note(ctypes.Structure):
    """What a worker is at, and since when by the clock that all processes share."""

    _fields_ = (("since", ctypes.c_double), ("what", ctypes.c_char * 256))


class _Workers:
    """Some processes, how long they have been there, and what they are at.

    Notes are shared memory: one is there even while its worker hangs in a library.
    """

    def __init__(self, count: int):
        self.count = count
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.notes = context.RawArray(_Note, self.count)
        self.begun = context.Value("i", 0)
        # The server that workers are forked from may be older than this environment.
        arguments = (storage.used_options(), dict(os.environ), self.notes, self.begun)
        self.executor = ProcessPoolExecutor(
            self.count, context, initializer=_begin, initargs=arguments
        )
        self._since = time.monotonic()

    def renew(self) -> None:
        """Replace them if they have been there for long; none may be at work."""
        if time.monotonic() - self._since > _RENEW_SECS:
            self.executor.shutdown()
            self._start()


_pools: list[_Workers] = []
#: That of this process, if it is a worker.
_notes: list[_Note] = []


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server(modules: Sequence[str] = ()) -> None:
    """Start the server that workers are forked from, in the background.

    Neither it nor they heed Ctrl-C, which a terminal sends to all: they end with their parent.

    Args:
        modules: what it imports besides `PRELOAD`.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, *modules])
    resource_tracker.ensure_running()  # which it starts else, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def local_pool(workers: int) -> Iterator[None]:
    """Have `call_each` use this many processes for as long as the body runs.

    One is a process too: what aborts it, such as damaged input in a library, leaves its parent to
    say so, and CLD3 crashes in a process that imported TensorFlow first.
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
    """Call a function of a module with each item, in worker processes if there are any.

    Raises:
        WorkerDiedError: a worker process died, which ends what all others do.
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
                "worker processes cannot start: they import the script that is run, so put what it "
                "does below `if __name__ == '__main__':`"
            ) from error
        # Damaged input may abort a library; which of the workers died is not known.
        noted = (one.what.decode(errors="replace") for one in pool.notes if one.what)
        at = ", ".join(what.removeprefix("at ") for what in noted)
        hint = f"; at work was {at}: if it dies there again, leave that file out" if at else ""
        raise WorkerDiedError(
            "a worker process was killed, perhaps for lack of memory: run the same command again, "
            f"it continues; --direct_num_workers=1 after -- needs least{hint}"
        ) from error
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]


def note(what: str) -> None:
    """Note for the parent's progress what this worker is at; "" is nothing."""
    for mine in _notes:
        mine.since, mine.what = time.monotonic(), what.encode(errors="replace")[:255]


def longest_note() -> str:
    """Return what a worker has been at for longest, and for how long; "" where none is."""
    notes = [(one.since, one.what) for one in _pools[0].notes if one.what] if _pools else []
    if not notes:
        return ""
    since, what = min(notes)
    return f"{what.decode(errors='replace')} for {time.monotonic() - since:.0f} s"


def _work(function: Callable[[A], T], item: A) -> T:
    try:
        return function(item)
    finally:
        note("")


def _begin(
    storage_options: dict[str, Any], environment: dict[str, str], notes: Any, begun: Any
) -> None:
    """Make this process a worker, which reaches remote files as its parent does."""
    with begun.get_lock():
        _notes.append(notes[begun.value])
        begun.value += 1
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    storage.use_options(storage_options)
    collect_rarely()


def _die_with_parent() -> None:
    """Leave no worker behind that still writes when the build is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
