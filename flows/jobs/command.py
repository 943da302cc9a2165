"""Command lines of jobs: what they differ in, and what ends what they leave running."""

import itertools
from collections.abc import Sequence

from mswitch.flows.jobs.job import Job


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
