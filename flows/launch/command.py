"""Which output a command line of `mswitch` makes, and how one sees that it is finished."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from flows.launch.job import Job
from pipelines.errors import UserError


def job_of_command(argv: Sequence[str], hosts: int = 1) -> Job:
    """Make the job of a command line, `["train", "--preset", ..., "--out", "run"]`.

    An evaluation is the job of the directory `eval` in its run, so that it can go beside the
    training. It, the demo, an addition to a finished corpus and a report on unfinished runs are
    done when they end with code 0: they leave no marker, or that of an earlier one is there.

    Raises:
        UserError: the command line names no output, or its processes would not work together.
    """
    stage = argv[0] if argv else ""
    if hosts > 1 and "--distributed" not in argv:
        raise UserError(
            f"--hosts {hosts}: give --distributed to {stage!r} too, or they would not meet"
        )
    own = list(argv[: argv.index("--")] if "--" in argv else argv)
    option = "--run" if stage == "evaluate" else "--out"
    found = [after for word, after in itertools.pairwise(own) if word == option]
    found += [word.partition("=")[2] for word in own if word.startswith(f"{option}=")]
    if not found or not found[-1]:
        raise UserError(
            f"a job needs the directory that it makes: give {option} to {stage!r} too, or a "
            "command that makes none without `mswitch runs submit`"
        )
    out = Path(found[-1], "eval") if stage == "evaluate" else Path(found[-1])
    marked = stage not in ("evaluate", "demo") and not {"--append", "--unfinished"} & set(own)
    return Job(tuple(argv), out, marked=marked, hosts=hosts)
