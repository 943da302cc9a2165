"""Follows a job as an engine would: `job_follower.py JOB LAUNCHER LINES`, the first two as JSON.

What it is given of the log it appends to the file LINES; the result is its output.
"""

import json
import sys
from pathlib import Path

from mswitch.flows.jobs.doors import follow
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import Timing

TIMING = Timing(poll_secs=0.05, first_wait_secs=0.05, longest_wait_secs=0.2)

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    job = Job(**{**given, **{name: tuple(given[name]) for name in ("argv", "program")}})
    lines = Path(sys.argv[3])

    def append(new: list[str]) -> None:
        with lines.open("a") as file:
            file.writelines(f"{line}\n" for line in new)

    launcher = make_launcher(json.loads(sys.argv[2]))
    print(follow(job, launcher, on_lines=append, timing=TIMING).name)
