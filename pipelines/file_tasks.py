"""Runs the work of a build as lists of file tasks, on this machine or on an engine.

A task is an item of a list. Its function reads and writes files, with the same bytes if it runs
again, and returns a note: facts that other tasks need. The note is written last, so a note means
that the task is done, and a killed build continues where it stopped. A list gets the results of the
list before from files.
"""

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
from mswitch.pipelines.progress import INTERVAL_SECS, Progress, in_background
from mswitch.pipelines.runners import Engine, run_pipeline

if TYPE_CHECKING:
    import apache_beam as beam

#: Seconds between checks which tasks are finished, on a disk and in an object store.
_LOOK_SECS, _LOOK_REMOTE_SECS = 1.0, 15.0
#: Number of tasks whose arguments (items) are in one file for Beam workers. A Beam job that
#: contained all arguments could be too large.
_ITEMS_PER_FILE = 1000


@dataclasses.dataclass(frozen=True)
class Tasks:
    """A list of tasks that do not depend on each other.

    Attributes:
        name: name of the list, for people.
        function: returns an item's note, as JSON; it is pickled, with data that all items share.
        items: arguments of the tasks; small.
        notes: directory of the notes.
        sizes: size of each task; large tasks start first.
        unit: unit of progress: "files", or the "bytes" of sizes.
        counters: returns counters by name from a note, for people who watch an engine's job.
        on_engine: alternative for engines, for a list that shuffles. It gets the pipeline and the
            list, writes notes with `do_task`, and returns one value per task.
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
        """Return the unfinished tasks, large tasks first, so that the last tasks are short."""
        done = storage.list_names(self.notes)
        left = [n for n in range(len(self.items)) if name_note(n) not in done]
        return sorted(left, key=lambda n: -self.sizes[n]) if self.sizes else left

    def read(self) -> Iterator[Any]:
        """Yield the results (notes) of all tasks; the tasks must be done."""
        paths = [storage.join(self.notes, name_note(n)) for n in range(len(self.items))]
        yield from storage.read_json_files(paths)


def name_note(number: int) -> str:
    """Return the name of a task's note."""
    return f"{number:06d}.json"


def run_tasks(lists: Sequence[Tasks], engine: Engine, job: str = "") -> None:
    """Do the unfinished tasks of several lists, one list after the other.

    Each list may read files that earlier lists wrote. `job` names an engine's job, which does all
    lists; default: the name of the last list.
    """
    todo = {tasks.name: tasks.todo() for tasks in lists}
    if not any(todo.values()):
        return
    for tasks in lists:
        storage.make_directory(tasks.notes)
    with in_background(functools.partial(_watch, lists, engine.stage)):
        if engine.runner == "local":
            for tasks in lists:
                items = [(n, tasks.items[n]) for n in todo[tasks.name]]
                own = _drop_items(tasks)
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


def _drop_items(tasks: Tasks) -> Tasks:
    return dataclasses.replace(tasks, items=(), sizes=(), on_engine=None)


def do_task(numbered: tuple[int, Any], tasks: Tasks, stage: str) -> int:
    """Do a task, unless an earlier attempt did it; return the task's number."""
    number, item = numbered
    path = storage.join(tasks.notes, name_note(number))
    if not storage.exists(path):
        note = tasks.function(item)
        fault_point(f"{stage}.before_note", of_any_stage=True)
        storage.write_json(path, note, scratch=True)
        fault_point(f"{stage}.after_{tasks.name.replace(' ', '_')}", of_any_stage=True)
    return number


def _do_and_count(numbered: tuple[int, Any], tasks: Tasks, stage: str) -> int:
    from apache_beam.metrics.metric import Metrics

    number = do_task(numbered, tasks, stage)
    if tasks.counters:
        note = storage.read_json(storage.join(tasks.notes, name_note(number)))
        for name, count in tasks.counters(note).items():
            Metrics.counter(stage, name).inc(count)
    return number


def _build(root: "beam.Pipeline", lists: Sequence[Tasks], stage: str) -> None:
    """Add lists of tasks to a Beam pipeline; each list waits for the end of the previous one."""
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
                | title >> beam.Map(_do_and_count, tasks=_drop_items(tasks), stage=stage)
            )
        before = (AsSingleton(done | f"Count{title}" >> beam.combiners.Count.Globally()),)


def _write_items(tasks: Tasks) -> list[str]:
    todo, paths = tasks.todo(), []
    for start in range(0, len(todo), _ITEMS_PER_FILE):
        paths.append(storage.join(tasks.notes, f"items-{start:06d}.pickle"))
        with storage.publish(paths[-1]) as temporary:
            items = [(n, tasks.items[n]) for n in todo[start : start + _ITEMS_PER_FILE]]
            temporary.write_bytes(pickle.dumps(items))
    return paths


def _read_items(path: str, _before: int = 0) -> list[tuple[int, Any]]:
    return pickle.loads(storage.read_bytes(path))  # noqa: S301, of this build's own directory


def _watch(lists: Sequence[Tasks], stage: str, stop: threading.Event) -> None:
    """Report slow tasks and the progress of lists of tasks, one list after the other.

    After `stop`, report once more.
    """
    for tasks in lists:
        sizes, scale, unit = [1] * len(tasks.items), 1, tasks.unit
        if unit == "bytes":
            sizes = tasks.sizes
            scale, unit = (10**6, "MB") if sum(sizes) >= 10**7 else (10**3, "kB")
        waiting = {name_note(n): size / scale for n, size in enumerate(sizes)}
        every_secs = _LOOK_REMOTE_SECS if storage.is_remote(tasks.notes) else _LOOK_SECS
        progress = Progress(stage, tasks.name, round(sum(sizes) / scale), unit)
        done = _take_done(tasks, waiting)
        progress.start_at(round(done))
        moved, stopped = time.monotonic(), False
        while waiting and not stopped:
            stopped = stop.wait(every_secs)
            done += _take_done(tasks, waiting)
            more = round(done) - progress.done
            if more:
                moved = time.monotonic()
            if more or not stopped:
                still = time.monotonic() - moved >= INTERVAL_SECS
                progress.add(more, longest_note() if still else "")


def _take_done(tasks: Tasks, waiting: dict[str, float]) -> float:
    return sum(waiting.pop(name) for name in storage.list_names(tasks.notes) & waiting.keys())
