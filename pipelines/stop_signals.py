"""Treats the first Ctrl-C or SIGTERM as a request to save and stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType


@contextlib.contextmanager
def first_signal(numbers: Sequence[int], note: Callable[[int], None]) -> Iterator[None]:
    """On the first signal among `numbers`, restore the previous handlers and call `note`.

    Python's wakeup descriptor is unset until then: its reader would end the process
    (`mswitch.flows.cli.interrupts`). Only the main thread can do this; in another, nothing changes.
    """
    previous, wakeup_fd = {}, -1

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            signal.set_wakeup_fd(wakeup_fd)

    def handle(number: int, _frame: FrameType | None) -> None:
        restore()
        note(number)

    if threading.current_thread() is threading.main_thread():
        wakeup_fd = signal.set_wakeup_fd(-1)
        for number in numbers:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
