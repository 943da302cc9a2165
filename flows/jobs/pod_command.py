"""Run the command of one process in a pod of Kubernetes.

    python -m mswitch.flows.jobs.pod_command PREFIX COMMAND...

The files of the attempt begin with PREFIX, a path on a volume or a URL in a bucket. `.task<i>.log`
gets the command's output, as the pod's own log does, and `.task<i>` its exit code.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from mswitch.flows.jobs.host import run_command, write_code
from mswitch.pipelines import objects, storage
from mswitch.pipelines.exit_codes import RESUME, USER_ERROR

TASK = ".task"
_UPLOAD_SECS = 10.0
#: Exit code of a shell that cannot find a command.
_NOT_STARTED = 127


def main(prefix: str, command: list[str]) -> int:
    """Run the command; pass on the first SIGTERM."""
    place = f"{prefix}{TASK}{os.environ['JOB_COMPLETION_INDEX']}"
    if not storage.is_remote(place):
        return _run(Path(place), command)
    try:
        with _upload_files(place) as file:
            return _run(file, command)
    except objects.BucketError as error:
        print(f"mswitch: {error}")
        return RESUME


def _run(file: Path, command: list[str]) -> int:
    if not file.parent.exists():
        print(f"mswitch: {file.parent} does not exist: mount the volume of the output at its path")
        return USER_ERROR
    # If a queue suspended and resumed the Job, an earlier pod may have left an exit code.
    file.unlink(missing_ok=True)
    copy = subprocess.Popen(["tee", "-a", f"{file}.log"], stdin=subprocess.PIPE)
    with copy.stdin as pipe:  # type: ignore[union-attr]
        _redirect_output(pipe.fileno())
    try:
        code = run_command(command, keep=[])
    except OSError as error:
        print(f"mswitch: cannot start the command: {error}", flush=True)
        code = _NOT_STARTED
    with open(os.devnull, "wb") as nothing:
        _redirect_output(nothing.fileno())
    with contextlib.suppress(subprocess.TimeoutExpired):  # child processes may still write logs
        copy.wait(5)
    write_code(file, code)
    return code


@contextlib.contextmanager
def _upload_files(place: str) -> Iterator[Path]:
    """Yield a local path; upload its file at the end, and the file's log every few seconds."""
    over = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "task"
        log = Path(f"{file}.log")
        with objects.reaching(place):
            if storage.exists(f"{place}.log"):  # a queue has suspended and resumed the Job
                objects.download(f"{place}.log", log)
            if storage.exists(place):
                storage.remove([place])

        def send() -> None:
            sent = -1
            while not over.wait(_UPLOAD_SECS):
                size = log.stat().st_size if log.exists() else 0
                if size != sent:
                    with contextlib.suppress(objects.BucketError):  # next round uploads the log
                        objects.upload(log, f"{place}.log")
                        sent = size

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            yield file
        finally:
            over.set()
            sender.join()
            # Upload the log first, because for readers an exit code means that the log is complete.
            for path, url in ((log, f"{place}.log"), (file, place)):
                with contextlib.suppress(objects.BucketError, FileNotFoundError):
                    objects.upload(path, url)


def _redirect_output(file: int) -> None:
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
