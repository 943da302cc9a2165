"""Things made ahead of their consumer by threads, in an order that threads have no say in."""

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(
    make: Callable[[int], T], numbers: Iterable[int], *, prefetch: int = 2, workers: int = 1
) -> Generator[T, None, None]:
    """Yield `make(number)` for each number in turn, made while the consumer is busy.

    An error of `make` is raised in the consumer, in place of the thing it belongs to, after all
    things before it. When the consumer stops, or the iterator is closed, what is not begun is not
    made and threads have ended.

    Args:
        make: called by several threads at a time if there are several workers.
        numbers: may be endless; taken from `prefetch` ahead.
        prefetch: how many things wait, ready or being made; 0 makes each when it is asked for.
        workers: threads.

    Raises:
        ValueError: `prefetch` is negative or `workers` less than 1.
    """
    if prefetch < 0 or workers < 1:
        raise ValueError(f"prefetch is {prefetch} and workers {workers}: give 0 and 1 or more")
    numbers = iter(numbers)
    if not prefetch:
        yield from map(make, numbers)
        return
    waiting: collections.deque[Future[T]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        for number in itertools.islice(numbers, prefetch):
            waiting.append(pool.submit(make, number))
        while waiting:
            thing = waiting.popleft().result()
            for number in itertools.islice(numbers, 1):
                waiting.append(pool.submit(make, number))
            yield thing
    finally:
        pool.shutdown(cancel_futures=True)
