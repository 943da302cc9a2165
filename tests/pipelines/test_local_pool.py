import functools
import operator
import os
import signal
import subprocess
import sys
import time

import crawl_files as crawl
import pytest
from processes import end, is_alive, start, wait_for

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import PRELOAD, WorkerDiedError, call_each, local_pool, note

CHILD = """
import operator, os, pathlib, sys, time
from mswitch.pipelines.local_pool import call_each, local_pool
if __name__ == "__main__":
    with local_pool(2):
        [worker] = call_each(operator.call, [os.getpid])
        pathlib.Path(sys.argv[1]).write_text(str(worker))
        time.sleep(60)
"""


def call(function, *args):
    [found] = call_each(operator.call, [functools.partial(function, *args)])
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_done_by_processes(workers):
    assert call(os.getpid) == os.getpid()
    with local_pool(workers):
        assert call(os.getpid) != os.getpid()
        assert call(divmod, 7, 2) == (3, 1)
    assert call(os.getpid) == os.getpid()


def test_workers_have_the_environment_of_their_pool(monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("MSWITCH_TEST", value)
        with local_pool(2):
            assert call(os.getenv, "MSWITCH_TEST") == value


@pytest.mark.parametrize(("seconds", "stays"), [(3600.0, True), (-1.0, False)])
def test_a_next_list_has_new_workers_once_they_are_old(monkeypatch, seconds, stays):
    monkeypatch.setattr("mswitch.pipelines.local_pool._RENEW_SECS", seconds)
    with local_pool(2):
        before, after = (set(call_each(operator.call, [os.getpid] * 20)) for _ in range(2))
        assert bool(before & after) == stays


def test_errors_come_back():
    with local_pool(2), pytest.raises(ZeroDivisionError):
        call(divmod, 1, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_an_error_that_says_what_to_do(workers):
    with local_pool(workers), pytest.raises(UserError, match="run the same command again"):
        call(os.kill, call(os.getpid), signal.SIGKILL)


def die_at(what):
    note(f"at {what}")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_died_says_at_what():
    with local_pool(1), pytest.raises(WorkerDiedError) as caught:
        call(die_at, "a.warc.gz@7")
    found = str(caught.value)
    assert found.endswith("; it was at a.warc.gz@7: if it dies there again, leave out that file")
    assert "\n" not in found


def test_a_script_that_workers_cannot_import_is_told_why(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace('if __name__ == "__main__":', "if True:"))
    process = start(script, tmp_path / "pid", PYTHONPATH=os.pathsep.join(sys.path))
    assert "below `if __name__ == '__main__':`" in end(process, 1).splitlines()[-1]


def test_workers_leave_ctrl_c_to_their_parent():
    with local_pool(2):
        os.kill(call(os.getpid), signal.SIGINT)
        time.sleep(0.2)
        assert [call(divmod, 7, 2) for _ in range(20)] == [(3, 1)] * 20
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_with_a_killed_parent(tmp_path):
    script, noted = tmp_path / "child.py", tmp_path / "pid"
    script.write_text(CHILD)
    parent = start(script, noted, PYTHONPATH=os.pathsep.join(sys.path))
    wait_for(lambda: noted.exists() and noted.read_text())
    worker = int(noted.read_text())
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(worker))


def test_workers_start_without_beam():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print('apache_beam' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *PRELOAD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


BESIDE_TENSORFLOW = """
import sys
import tensorflow
from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
if __name__ == "__main__":
    options = ["--direct_num_workers=1"]
    config = CorpusConfig(min_lines=1, min_long_line_characters=1)
    build_corpus(sys.argv[1:2], sys.argv[2], config, beam_options=options)
"""


@pytest.mark.slow
def test_cld3_is_kept_apart_from_tensorflow(tmp_path):
    """In a process that imported TensorFlow first, CLD3 crashes."""
    pages = [crawl.record(crawl.prose(crawl.GERMAN, n, 9), f"http://a.org/{n}") for n in range(9)]
    crawl.write(tmp_path / "a.warc.wet.gz", pages)
    (tmp_path / "child.py").write_text(BESIDE_TENSORFLOW)
    words = [tmp_path / name for name in ("child.py", "a.warc.wet.gz", "out")]
    end(start(*words, PYTHONPATH=os.pathsep.join(sys.path)))
    assert (tmp_path / "out" / "_COMPLETED").exists()
