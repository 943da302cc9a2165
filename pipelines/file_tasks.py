"""Lists of file tasks: how the work of a build is done, on this machine or on an engine.

A task is an item of a list. Its function does all of its work by files, with the same bytes when it
is done again, and returns a note: what others need to know of it. The note is written last, so it
says that the task is done. A build that was killed continues where it stopped, and what a list
needs of the one before is in files.
"""

import contextlib
import dataclasses
import functools
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.local_pool import call_each, longest_note
from mswitch.pipelines.progress import INTERVAL_SECS, Progress
from mswitch.pipelines.runners import Engine, run_pipeline

if TYPE_CHECKING:
    import apache_beam as beam

#: Seconds between looks at what is done, here and on an object store.
_LOOK_SECS, _LOOK_REMOTE_SECS = 1.0, 15.0
#: Items of a file that an engine's workers read: as part of the job, a list could be too large.
_ITEMS_PER_FILE = 1000


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks that do not depend on each other.

    Attributes:
        name: what people call the list.
        function: takes an item and returns its note, as JSON; pickled, with what all items share.
        items: what tells the tasks apart; small.
        notes: the directory of the notes.
        sizes: how large each task is; large ones are begun first.
        unit: what progress counts: "files", or the "bytes" of sizes.
        counters: takes a note; returns what an engine shows to people who watch its job, by name.
        on_engine: how an engine does a list instead, if that is to shuffle: takes the pipeline and
            the list, gives one value for each task, which it notes by `do_task`.
    """

    name: str
    function: Callable[[Any], Any]
    items: Sequence[Any]
    notes: str
    sizes: Sequence[int] = ()
    unit: str = "files"
    counters: Callable[[Any], Mapping[str, int]] | None = None
    on_engine: "Callable[[beam.Pipeline, Tasks], Any] | None" = None

    def todo(self) -> list[int]:
        """The tasks that are not done, large ones first: the last to end should not be long."""
        done = storage.list_names(self.notes)
        left = [n for n in range(len(self.items)) if _note(n) not in done]
        return sorted(left, key=lambda n: -self.sizes[n]) if self.sizes else left

    def read(self) -> Iterator[Any]:
        """The notes of all tasks, once they are done."""
        paths = [storage.join(self.notes, _note(n)) for n in range(len(self.items))]
        yield from storage.read_json_files(paths)


def _note(number: int) -> str:
    return f"{number:06d}.json"


def run_tasks(lists: Sequence[Tasks], engine: Engine, job: str = "") -> None:
    """Do what is not done of some lists, one list after the other.

    Args:
        lists: each may read what those before it have left.
        engine: where.
        job: what an engine calls the job, which does all lists; by default after the last one.
    """
    todo = {tasks.name: tasks.todo() for tasks in lists}
    if not any(todo.values()):
        return
    for tasks in lists:
        storage.make_directory(tasks.notes)
    with _progress(lists, engine.stage):
        if engine.runner == "local":
            for tasks in lists:
                items = [(n, tasks.items[n]) for n in todo[tasks.name]]
                own = _without_items(tasks)
                call_each(functools.partial(do_task, tasks=own, stage=engine.stage), items)
            return
        run_pipeline(
            functools.partial(_build, lists=lists, stage=engine.stage),
            engine,
            f"mswitch-{engine.stage}-{job or lists[-1].name}",
        )
    for tasks in lists:
        if left := tasks.todo():
            raise UserError(
                f"the Beam job ended without {len(left)} {tasks.name} tasks: does every worker see "
                f"{tasks.notes}? Run the same command again; it continues"
            )


def _without_items(tasks: Tasks) -> Tasks:
    return dataclasses.replace(tasks, items=(), sizes=(), on_engine=None)


def do_task(numbered: tuple[int, Any], tasks: Tasks, stage: str) -> int:
    """Do a task, unless an earlier attempt has; return its number."""
    number, item = numbered
    path = storage.join(tasks.notes, _note(number))
    if not storage.exists(path):
        found = tasks.function(item)
        fault_point(f"{stage}.before_note", of_any_stage=True)
        storage.write_json(path, found, scratch=True)
        fault_point(f"{stage}.after_{tasks.name.replace(' ', '_')}", of_any_stage=True)
    return number


def _do_and_count(numbered: tuple[int, Any], tasks: Tasks, stage: str) -> int:
    """Do a task on an engine."""
    from apache_beam.metrics.metric import Metrics

    number = do_task(numbered, tasks, stage)
    if tasks.counters:
        note = storage.read_json(storage.join(tasks.notes, _note(number)))
        for name, count in tasks.counters(note).items():
            Metrics.counter(stage, name).inc(count)
    return number


def _build(root: "beam.Pipeline", lists: Sequence[Tasks], stage: str) -> None:
    """Add all lists to a pipeline; each waits until the one before is done."""
    import apache_beam as beam
    from apache_beam.pvalue import AsSingleton

    before: tuple[Any, ...] = ()
    for tasks in lists:
        title = tasks.name.title().replace(" ", "")
        if tasks.on_engine:
            done = tasks.on_engine(root, tasks)
        else:
            done = (
                root
                | f"{title}Lists" >> beam.Create(_write_items(tasks))
                | f"Read{title}" >> beam.FlatMap(_read_items, *before)
                | f"Spread{title}" >> beam.Reshuffle()
                | title >> beam.Map(_do_and_count, tasks=_without_items(tasks), stage=stage)
            )
        before = (AsSingleton(done | f"Count{title}" >> beam.combiners.Count.Globally()),)


def _write_items(tasks: Tasks) -> list[str]:
    """Write what is to do to files of bounded length; return their paths."""
    todo, paths = tasks.todo(), []
    for start in range(0, len(todo), _ITEMS_PER_FILE):
        paths.append(storage.join(tasks.notes, f"items-{start:06d}.pickle"))
        with storage.publish(paths[-1]) as temporary:
            items = [(n, tasks.items[n]) for n in todo[start : start + _ITEMS_PER_FILE]]
            temporary.write_bytes(pickle.dumps(items))
    return paths


def _read_items(path: str, _before: int = 0) -> list[tuple[int, Any]]:
    return pickle.loads(storage.read_bytes(path))  # noqa: S301, of this build's own directory


@contextlib.contextmanager
def _progress(lists: Sequence[Tasks], stage: str) -> Iterator[None]:
    """Print how much of a list is done, by the notes that are there, while it is done."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(lists, stage, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(lists: Sequence[Tasks], stage: str, stop: threading.Event) -> None:
    """Report on the first list that is not done, and what takes so long; once more when stopped."""
    for tasks in lists:
        sizes, scale, unit = [1] * len(tasks.items), 1, tasks.unit
        if unit == "bytes":
            sizes = tasks.sizes
            scale, unit = (10**6, "MB") if sum(sizes) >= 10**7 else (10**3, "kB")
        waiting = {_note(n): size / scale for n, size in enumerate(sizes)}
        every_secs = _LOOK_REMOTE_SECS if storage.is_remote(tasks.notes) else _LOOK_SECS
        progress = Progress(stage, tasks.name, round(sum(sizes) / scale), unit)
        done = _newly_done(tasks, waiting)
        progress.start_at(round(done))
        moved, stopped = time.monotonic(), False
        while waiting and not stopped:
            stopped = stop.wait(every_secs)
            done += _newly_done(tasks, waiting)
            more = round(done) - progress.done
            if more:
                moved = time.monotonic()
            if more or not stopped:
                still = time.monotonic() - moved >= INTERVAL_SECS
                progress.add(more, longest_note() if still else "")


def _newly_done(tasks: Tasks, waiting: dict[str, float]) -> float:
    """Take those that are done out of `waiting`; return their size."""
    return sum(waiting.pop(name) for name in storage.list_names(tasks.notes) & waiting.keys())
