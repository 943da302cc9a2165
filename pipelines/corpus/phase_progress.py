"""Reports how far a phase is by the files that it leaves in the work directory."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.local_pool import longest_note
from mswitch.pipelines.progress import INTERVAL_SECS, Progress

#: Seconds between looks, here and on an object store.
_LOOK_SECS, _LOOK_REMOTE_SECS = 1.0, 15.0


@contextmanager
def phase_progress(
    work: WorkDirectory,
    what: str,
    kind: str,
    weights: Mapping[str, int],
    unit: str = "files",
) -> Iterator[None]:
    """Print how much of a phase is done while it runs.

    Args:
        work: where the phase leaves its files.
        what: name of the phase.
        kind: the files to look for.
        weights: what each of them counts for, by name.
        unit: what weights are: "bytes" or "files".
    """
    scale = 1
    if unit == "bytes":
        scale, unit = (10**6, "MB") if sum(weights.values()) >= 10**7 else (10**3, "kB")
    progress = Progress("corpus", what, round(sum(weights.values()) / scale), unit)
    waiting = {name: weight / scale for name, weight in weights.items()}

    def done_since_last() -> float:
        return sum(waiting.pop(name) for name in work.names(kind) & waiting.keys())

    before = done_since_last()
    progress.start_at(round(before))
    stop = threading.Event()
    every_secs = _LOOK_REMOTE_SECS if storage.is_remote(work.root) else _LOOK_SECS
    watcher = threading.Thread(
        target=_watch, args=(stop, progress, done_since_last, before, every_secs), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(
    stop: threading.Event,
    progress: Progress,
    done_since_last: Callable[[], float],
    done: float,
    every_secs: float,
) -> None:
    """Report until stopped, what takes so long as well; then once more."""
    finished = False
    moved = time.monotonic()
    while not finished:
        finished = stop.wait(every_secs)
        done += done_since_last()
        more = round(done) - progress.done
        if more:
            moved = time.monotonic()
        if more or not finished:
            still = time.monotonic() - moved >= INTERVAL_SECS
            progress.add(more, longest_note() if still else "")
