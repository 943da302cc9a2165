import os
import signal
import subprocess
import sys
import time

import apache_beam as beam
import crawl_files as crawl
import pytest
from processes import is_alive, wait_for

from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.pipeline import IngestCrawl
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.local_pool import PRELOAD, call, local_pool
from mswitch.pipelines.runners import pipeline_options

CHILD = """
import os, pathlib, sys, time
from mswitch.pipelines.local_pool import call, local_pool
if __name__ == "__main__":
    with local_pool(2):
        pathlib.Path(sys.argv[1]).write_text(str(call(os.getpid)))
        time.sleep(60)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_done_by_processes(workers):
    assert call(os.getpid) == os.getpid()
    with local_pool(workers):
        assert call(os.getpid) != os.getpid()
        assert call(divmod, 7, 2) == (3, 1)
        with local_pool(2):
            assert call(os.getpid) != os.getpid()
    assert call(os.getpid) == os.getpid()


def test_workers_have_the_environment_of_their_pool(monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("MSWITCH_TEST", value)
        with local_pool(2):
            assert call(os.getenv, "MSWITCH_TEST") == value


@pytest.mark.parametrize(("seconds", "stays"), [(3600.0, True), (-1.0, False)])
def test_a_next_job_has_new_workers_once_they_are_old(monkeypatch, seconds, stays):
    monkeypatch.setattr("mswitch.pipelines.local_pool._RENEW_SECS", seconds)
    with local_pool(2):
        before = {call(os.getpid) for _ in range(20)}
        with local_pool(1):
            after = {call(os.getpid) for _ in range(20)}
            assert os.getpid() not in after
        assert bool(before & after) == stays


def test_errors_come_back():
    with local_pool(2), pytest.raises(ZeroDivisionError):
        call(divmod, 1, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_an_error_that_says_what_to_do(workers):
    with local_pool(workers), pytest.raises(UserError, match="run the same command again"):
        call(os.kill, call(os.getpid), signal.SIGKILL)


@pytest.mark.parametrize("files", [1, 3])
def test_a_worker_that_died_at_its_input_names_a_file(tmp_path, files):
    file = {"path": "a.warc.gz", "name": "a.warc.gz", "size_bytes": 1, "digest": ""}
    job = Job(WorkDirectory(str(tmp_path)), CorpusConfig())
    options = pipeline_options("local", ["--direct_num_workers=2"])
    with local_pool(2):
        with pytest.raises(UserError):
            call(os.kill, call(os.getpid), signal.SIGKILL)
        killed = pytest.raises(Exception, match="a worker process was killed")
        with killed as caught, beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create([(unit, file) for unit in range(files)]) | IngestCrawl(job)
    found = str(as_user_error(caught.value))
    assert found.startswith("while a.warc.gz and perhaps others were read, a worker process")
    assert "\n" not in found
    assert "running" not in found


def test_a_script_that_workers_cannot_import_is_told_why(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace('if __name__ == "__main__":', "if True:"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "pid")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def test_workers_leave_ctrl_c_to_their_parent():
    with local_pool(2):
        os.kill(call(os.getpid), signal.SIGINT)
        time.sleep(0.2)
        assert [call(divmod, 7, 2) for _ in range(20)] == [(3, 1)] * 20
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_with_a_killed_parent(tmp_path):
    script, noted = tmp_path / "child.py", tmp_path / "pid"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script), str(noted)], env=environment)
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
    command = [sys.executable, tmp_path / "child.py", tmp_path / "a.warc.wet.gz", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "_COMPLETED").exists()
