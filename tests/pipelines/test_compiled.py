import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mswitch.pipelines import compiled as module
from mswitch.pipelines.compiled import choose_table_size, compiled


def _squares(count: int) -> int:
    total = 0
    for number in range(count):
        total += _squared(number)
    return total


FACTORS = np.array([2])


def _scaled(number: int) -> int:
    return number * FACTORS[0]


@compiled
def _squared(number: int) -> int:
    return number * number


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both places where functions may be kept are below this directory."""
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(module, "__file__", str(package / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path


def kept(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.nbc"))


def test_functions_are_kept_beside_the_package(caches):
    assert compiled(_squares)(10) == 285
    first = kept(caches / "package" / "__pycache__")
    assert first
    assert compiled(_squares)(10) == 285
    assert kept(caches) == first


def test_compiling_is_said_once(caches, capsys):
    module._say_compiling.cache_clear()
    compiled(_squares)(10)
    assert capsys.readouterr().err.startswith("[compile] compiling loops over text")
    module._say_compiling.cache_clear()
    compiled(_squares)(10)
    assert capsys.readouterr().err == ""


def test_a_function_is_compiled_anew_when_what_it_uses_changes(caches, monkeypatch):
    assert compiled(_scaled)(10) == 20
    monkeypatch.setitem(globals(), "FACTORS", np.array([3]))
    assert compiled(_scaled)(10) == 30
    assert compiled(_squares)(10) == 285
    monkeypatch.setitem(globals(), "_squared", compiled(_scaled))
    assert compiled(_squares)(10) == 135


def test_where_the_package_cannot_be_written_the_user_has_a_directory(caches, monkeypatch):
    access = os.access

    def only_users(path: str, mode: int) -> bool:
        return f"{os.sep}package{os.sep}" not in str(path) and access(path, mode)

    monkeypatch.setattr(os, "access", only_users)
    assert compiled(_squares)(10) == 285
    assert kept(caches / "user" / "mswitch")
    assert not kept(caches / "package")


def test_where_nothing_can_be_written_functions_work_all_the_same(caches, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert compiled(_squares)(10) == 285
    assert not kept(caches)


def test_threads_may_come_first_together(caches):
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(compiled(_squares), [10] * 8)) == [285] * 8


@pytest.mark.parametrize("count", range(40))
def test_a_table_has_room(count):
    size = choose_table_size(count)
    assert max(2, 2 * count) <= size <= max(2, 4 * count)
    assert np.bitwise_count(size) == 1


def test_what_compiles_nothing_does_not_wait_for_numba():
    modules = "sys, mswitch.pipelines.crawl.pages, mswitch.pipelines.corpus.shard_work"
    code = f"import {modules}; print('numba' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
