"""Run jobs that end with the process that starts them, such as the jobs of `mswitch demo`."""

import shutil
import signal
import time

from mswitch.flows.jobs.doors import follow, leave, want
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.life import Timing
from mswitch.flows.jobs.local import Local
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import pass_on, say_news
from mswitch.pipelines.stop_signals import first_signal

_TIMING = Timing(poll_secs=0.2, first_wait_secs=1.0)


def run_tied(job: Job, who: str) -> None:
    """Run a job to its end with its log on standard error, then remove its record.

    At the first Ctrl-C or SIGTERM the job saves and ends, then this process ends with that signal.
    A second signal ends both at once.

    Raises:
        UserError: it refused its input, or somebody else paused or cancelled it.
        RuntimeError: it failed.
    """
    launcher, signals, tell_news = Local(tied=True), list[int](), say_news(job.argv[0])

    def tell(text: str) -> None:
        if not text.startswith("running"):  # while the job runs, its log says more than `text`
            tell_news(text)

    def sleep(secs: float) -> None:
        time.sleep(secs)
        if signals:
            leave(job, launcher, "pause", who)

    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    want(job, launcher, who)
    with first_signal(heeded, signals.append):
        state = follow(job, launcher, on_lines=pass_on, on_poll=tell, timing=_TIMING, sleep=sleep)
    if signals:
        signal.raise_signal(signals[0])
    if state.name == "failed":
        raise RuntimeError(f"`mswitch {' '.join(job.argv)}`: {state.message}")
    if state.name == "refused":
        raise UserError(f"`mswitch {job.argv[0]}` cannot continue: see the line above")
    if state.name != "done":
        raise UserError(f"{job.path} was {state.name} by another command: repeat this command")
    shutil.rmtree(job.directory)
