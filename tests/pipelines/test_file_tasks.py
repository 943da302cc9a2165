"""Lists of file tasks: order, notes, what is done again, progress."""

import functools
import json
import os
import re
import time
from pathlib import Path

import pytest

from mswitch.pipelines import file_tasks, local_pool
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Engine, Tasks, run_tasks
from mswitch.pipelines.local_pool import local_pool as pool

HERE = Engine("corpus", "", "", "local")


def square(item: int, log: Path) -> dict[str, int]:
    with log.open("a") as file:
        file.write(f"{item}\n")
    return {"square": item * item}


def total(_item: int, first: Tasks) -> int:
    return sum(note["square"] for note in first.read())


@pytest.fixture
def squares(tmp_path: Path) -> Tasks:
    function = functools.partial(square, log=tmp_path / "log")
    return Tasks("ingest", function, [3, 1, 2], str(tmp_path / "squares"), [30, 10, 20])


def done(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_a_list_reads_what_the_one_before_left(tmp_path, squares):
    sums = Tasks("finish", functools.partial(total, first=squares), [0], str(tmp_path / "sums"))
    run_tasks([squares, sums], HERE)
    assert done(tmp_path) == [3, 2, 1]  # large ones first
    assert [note["square"] for note in squares.read()] == [9, 1, 4]
    assert list(sums.read()) == [14]
    run_tasks([squares, sums], HERE)
    assert len(done(tmp_path)) == 3


def test_only_what_has_no_note_is_done_again(tmp_path, squares):
    run_tasks([squares], HERE)
    Path(squares.notes, "000001.json").unlink()
    assert squares.todo() == [1]
    run_tasks([squares], HERE)
    assert done(tmp_path) == [3, 2, 1, 1]


def test_an_engine_does_lists_one_after_the_other(tmp_path, squares, engine):
    """In one pipeline."""
    sums = Tasks("finish", functools.partial(total, first=squares), [0], str(tmp_path / "sums"))
    run_tasks([squares, sums], Engine("corpus", "", "", **engine))
    assert sorted(done(tmp_path)) == [1, 2, 3]
    assert list(sums.read()) == [14]


def test_workers_that_do_not_see_the_directory_are_told(squares, monkeypatch):
    monkeypatch.setattr(file_tasks, "run_pipeline", lambda *_, **__: None)
    told = f"ended without 3 ingest tasks: does every worker see {squares.notes}"
    with pytest.raises(UserError, match=re.escape(told)):
        run_tasks([squares], Engine("corpus", "", "", "flink"))


def fail_at_two(item: int) -> dict[str, int]:
    if item == 2:
        raise UserError("two is no number")
    return {"pid": os.getpid()}


def test_an_error_ends_the_list_and_leaves_what_is_done(tmp_path):
    tasks = Tasks("ingest", fail_at_two, [1, 2, *range(3, 50)], str(tmp_path / "notes"))
    with pool(1), pytest.raises(UserError, match="two is no number"):
        run_tasks([tasks], HERE)
    assert 1 in tasks.todo()
    assert 0 not in tasks.todo()
    assert json.loads(Path(tasks.notes, "000000.json").read_text())["pid"] != os.getpid()


def wait(item: float) -> None:
    local_pool.note("at a slow page")
    time.sleep(item)


def test_progress_is_of_the_list_that_is_done(tmp_path, monkeypatch, capsys):
    for name in ("progress.FIRST_SECS", "progress.INTERVAL_SECS", "file_tasks.INTERVAL_SECS"):
        monkeypatch.setattr(f"mswitch.pipelines.{name}", 0.05)
    monkeypatch.setattr(file_tasks, "_LOOK_SECS", 0.05)
    lists = [Tasks(name, wait, [0.0, 0.4], str(tmp_path / name)) for name in ("ingest", "finish")]
    with pool(1):
        run_tasks(lists, HERE)
    lines = capsys.readouterr().err.splitlines()
    assert any("ingest: 1/2 files" in line and "at a slow page for" in line for line in lines)
    assert re.search(r"finish: 2/2 files · .* · took", lines[-1])
    names = [line.split()[1] for line in lines]
    assert names == sorted(names, reverse=True)  # none of finish before the last of ingest
