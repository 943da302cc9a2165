"""Which output a command line of `mswitch` makes, and how one sees that it is finished."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from mswitch.flows.launch.job import Job
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.storage import is_remote, join

#: Commands that add a directory to a run.
_IN_RUN = {"evaluate": "eval", "predict": "predictions"}


def job_of_command(argv: Sequence[str], hosts: int = 1, record: Path | None = None) -> Job:
    """Make the job of a command line, `["train", "--preset", ..., "--out", "run"]`.

    An evaluation is the job of the directory `eval` in its run, so that it can go beside the
    training; predictions are that of `predictions`. They, the demo, an addition to a finished
    corpus and a report on unfinished runs are done when they end with code 0: they leave no marker,
    or that of an earlier one is there.

    Args:
        argv: the words.
        hosts: `Job.hosts`.
        record: `Job.record`, of the run where the command adds to one.
    """
    stage = argv[0] if argv else ""
    if hosts > 1 and "--distributed" not in argv:
        raise UserError(
            f"--hosts {hosts}: give --distributed to {stage!r} too, or they would not meet"
        )
    own, _ = parts(argv)
    option = "--run" if stage in _IN_RUN else "--out"
    found = [after for word, after in itertools.pairwise(own) if word == option]
    found += [word.partition("=")[2] for word in own if word.startswith(f"{option}=")]
    if not found or not found[-1]:
        raise UserError(
            f"a job needs the directory that it makes: give {option} to {stage!r} too, or a "
            "command that makes none without `mswitch runs submit`"
        )
    out: str | Path = found[-1] if is_remote(found[-1]) else Path(found[-1])
    if part := _IN_RUN.get(stage):
        out = join(out, part) if isinstance(out, str) else out / part
        record = record and record / part
    unmarked = stage in (*_IN_RUN, "demo", "evidence")
    marked = not unmarked and not {"--append", "--unfinished"} & set(own)
    return Job(tuple(argv), out, marked=marked, hosts=hosts, record=record)


def cancel_command(job: Job) -> tuple[str, ...] | None:
    """The command that ends what a job may leave running elsewhere; None where it leaves nothing.

    Jobs of Dataflow outlive the command that waits for them.
    """
    own, beam_options = parts(job.argv)
    if "--runner=dataflow" in own or ("--runner", "dataflow") in itertools.pairwise(own):
        return (*own, "--cancel", *beam_options)
    return None


def differences(argv: Sequence[str], other: Sequence[str]) -> str:
    """What two command lines differ in: their options, or else the command."""
    ours, theirs = _options(argv), _options(other)
    names = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    return ", ".join(name or "command" for name in names)


def _options(argv: Sequence[str]) -> dict[str, list[str]]:
    """The values of each option; under "" the words before the first."""
    found, name = {"": list[str]()}, ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found.setdefault(name, []).extend([value] if equals else [])
        else:
            found[name].append(word)
    return found


def parts(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What is of the command itself, and Beam's options with the `--` before them."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end:]
