"""Run jobs that end with the process that starts them, such as the jobs of `mswitch demo`."""

import contextvars
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mswitch.flows.jobs.doors import follow, leave, want
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.life import State, Timing
from mswitch.flows.jobs.local import Local
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import pass_on, say_news
from mswitch.pipelines.stop_signals import first_signal

_TIMING = Timing(poll_secs=0.2, first_wait_secs=1.0)


def run_tied(
    jobs: Sequence[Job], who: str, on_lines: Callable[[Sequence[str]], None] = pass_on
) -> None:
    """Run jobs side by side to their ends, then remove their records.

    At the first Ctrl-C or SIGTERM the jobs save and end, then this process ends with that signal.
    A second signal ends all at once. If a job fails, the others save and end too.

    Args:
        jobs: the jobs.
        who: the command that runs them.
        on_lines: gets the lines of their logs; by default they go to standard error.

    Raises:
        UserError: a job refused its input, or somebody else paused or cancelled it.
        RuntimeError: a job failed.
    """
    launcher, signals, failed = Local(tied=True), list[int](), threading.Event()

    def follow_one(job: Job) -> State:
        tell_news = say_news(job.argv[0])

        def tell(text: str) -> None:
            if not text.startswith("running"):  # while the job runs, its log says more than `text`
                tell_news(text)

        def sleep(secs: float) -> None:
            time.sleep(secs)
            if signals or failed.is_set():
                leave(job, launcher, "pause", who)

        state = State("failed", "its follower ended with an error")
        try:
            how = {"on_lines": on_lines, "on_poll": tell, "timing": _TIMING, "sleep": sleep}
            state = follow(job, launcher, **how)
        finally:
            if state.name != "done":
                failed.set()
        return state

    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for job in jobs:
        want(job, launcher, who)
    with first_signal(heeded, signals.append), ThreadPoolExecutor(len(jobs)) as pool:
        # Lines go to the listener of this thread.
        ends = [pool.submit(contextvars.copy_context().run, follow_one, job) for job in jobs]
        states = [end.result() for end in ends]
    if signals:
        signal.raise_signal(signals[0])
    # A job that was paused because another one failed is not the reason.
    for job, state in sorted(
        zip(jobs, states, strict=True), key=lambda pair: pair[1].name == "paused"
    ):
        if state.name == "failed":
            raise RuntimeError(f"`mswitch {' '.join(job.argv)}`: {state.message}")
        if state.name == "refused":
            raise UserError(f"`mswitch {job.argv[0]}` cannot continue: see the line above")
        if state.name != "done":
            raise UserError(f"{job.path} was {state.name} by another command: repeat this command")
    for job in jobs:
        shutil.rmtree(job.directory)
