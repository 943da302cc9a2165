"""Prints progress of long work as plain lines on standard error."""

import contextlib
import contextvars
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from mswitch.pipelines.errors import printable

#: Seconds before the first line of progress, and seconds between later lines.
FIRST_SECS = 2.0
INTERVAL_SECS = 10.0

#: What all lines of `Progress` have: a count of a total, and a rate.
_PROGRESS = re.compile(r"\[\w+\] .+: [\d,]+/[\d,]+ \w+ · [\d,.]+ \w+/s · ")

_listener: contextvars.ContextVar[Callable[[Sequence[str]], None]] = contextvars.ContextVar("lines")


def say(stage: str, message: str) -> None:
    """Print a line that names its stage."""
    pass_on([printable(f"[{stage}] {message}")])


def say_news(stage: str) -> Callable[[str], None]:
    """Return a function that prints a line of progress unless it equals the last one."""
    last = ""

    def tell(message: str) -> None:
        nonlocal last
        if message != last:
            say(stage, message)
        last = message

    return tell


def pass_on(lines: Sequence[str]) -> None:
    """Print lines unchanged, such as lines of another process."""
    if listener := _listener.get(None):
        listener(lines)
        return
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def pass_on_news(lines: Sequence[str]) -> None:
    """Print lines unchanged, except those of `Progress`."""
    pass_on([line for line in lines if not _PROGRESS.match(line)])


@contextlib.contextmanager
def lines_to(listener: Callable[[Sequence[str]], None]) -> Iterator[None]:
    """Pass this thread's lines to `listener`, such as a flow's logger, instead of printing them."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work(event)` in a thread during a `with` block; the end of the block sets the event."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Progress:
    """Counts units of work and prints rate and time left, at most every ten seconds."""

    def __init__(self, stage: str, what: str, total: int, unit: str):
        self.stage, self.what, self.total, self.unit = stage, what, total, unit
        self.done = 0
        self._began_at = self.done
        self._start = time.monotonic()
        self._next = self._start + FIRST_SECS

    def start_at(self, done: int) -> None:
        """Count `done` units as finished by an earlier run."""
        self.done = self._began_at = done

    def add(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; print a line when it is due."""
        self.done += count
        now = time.monotonic()
        if now < self._next and (self.done < self.total or not count):
            return
        self._next = now + INTERVAL_SECS
        elapsed = max(now - self._start, 1e-9)
        rate = (self.done - self._began_at) / elapsed
        timing = f"took {elapsed:.1f} s"
        if self.done < self.total:
            left = self.total - self.done
            timing = f"{left / rate:.0f} s left" if rate else "none finished yet"
        tail = f" · {note}" if note else ""
        say(
            self.stage,
            f"{self.what}: {self.done:,}/{self.total:,} {self.unit} · "
            f"{rate:,.1f} {self.unit}/s · {timing}{tail}",
        )
