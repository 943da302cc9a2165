"""Make values in threads, ahead of their consumer; their order does not depend on threads."""

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def make_ahead(
    make: Callable[[int], T], numbers: Iterable[int], *, prefetch: int = 2, workers: int = 1
) -> Generator[T, None, None]:
    """Yield `make(number)` for each number in order; meanwhile, threads make the next values.

    An error of `make` is raised in the consumer instead of the value it belongs to, after all
    values before it. When the consumer stops, or the iterator is closed, values that are not begun
    are not made, and threads have ended.

    Args:
        make: function that several threads call at a time if there are several workers.
        numbers: numbers, maybe endless; `prefetch` of them are taken ahead.
        prefetch: number of values that wait, ready or being made; 0 makes each on request.
        workers: number of threads.

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
