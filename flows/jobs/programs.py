"""Call a scheduler's programs."""

import subprocess

from mswitch.flows.jobs.job import Unreachable
from mswitch.pipelines.errors import UserError

_CALL_SECS = 60


def call(*words: str, where: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the caller checks its exit code.

    `given` is the program's standard input; `where` names the machine that has it, for people.

    Raises:
        Unreachable: it took too long.
    """
    try:
        return subprocess.run(
            words, input=given, capture_output=True, text=True, check=False, timeout=_CALL_SECS
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{words[0]} is not installed: give the command on a machine {where}, or "
            "--launcher local"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{words[0]} did not end in {_CALL_SECS} s") from error
