"""Compare command lines of jobs, and make the command that cancels a job's work on Dataflow."""

import itertools
from collections.abc import Sequence

from mswitch.flows.jobs.job import Job


def make_end_command(job: Job) -> tuple[str, ...] | None:
    """Return the command that cancels a job's work on Dataflow, or None without Dataflow.

    A Dataflow job outlives the command that waits for it.
    """
    own, beam_options = split_beam_options(job.argv)
    if "--runner=dataflow" in own or ("--runner", "dataflow") in itertools.pairwise(own):
        return (*own, "--cancel", *beam_options)
    return None


def describe_differences(argv: Sequence[str], other: Sequence[str]) -> str:
    """Name the options that differ between two command lines.

    The result includes "command" if the words before the first option differ.
    """
    ours, theirs = _options(argv), _options(other)
    names = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    return ", ".join(name or "command" for name in names)


def _options(argv: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each option, and under "" the words before the first option."""
    values, name = {"": list[str]()}, ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            values.setdefault(name, []).extend([value] if equals else [])
        else:
            values[name].append(word)
    return values


def split_beam_options(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split a command line into the command's words and Beam's options, which begin with `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end:]
