"""A cache with a budget in bytes, which threads share."""

import collections
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

#: Maximum bytes of records and indexes of all languages together: enough for at least two blocks
#: of each of 107 languages.
CACHE_BYTES = 512 << 20


class ByteCache:
    """Cache that keeps the most recently used values within its budget, but always the newest.

    A value that several threads need at the same time is loaded once.
    """

    def __init__(self, budget: int):
        """Make an empty cache; `budget` is in bytes."""
        self._budget = budget
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[Hashable, tuple[Future[Any], int]] = (
            collections.OrderedDict()
        )
        self._bytes = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, load: Callable[[], tuple[Any, int]]) -> Any:
        """Return the cached value of `key`; load it if it is missing.

        `load` returns the value and its size in bytes.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                future: Future[Any] = Future()
                self._kept[key] = future, 0
            else:
                future = kept[0]
                self._kept.move_to_end(key)
        if kept is None:
            self._load(key, future, load)
        return future.result()

    def _load(
        self, key: Hashable, future: Future[Any], load: Callable[[], tuple[Any, int]]
    ) -> None:
        try:
            value, size = load()
        except BaseException as error:
            with self._lock:
                del self._kept[key]
            future.set_exception(error)
            return
        with self._lock:
            self._kept[key] = future, size
            self._kept.move_to_end(key)
            self._bytes += size
            self._trim()
        future.set_result(value)

    def _trim(self) -> None:
        for key in list(self._kept)[:-1] if self._bytes > self._budget else ():
            if self._bytes <= self._budget:
                break
            if self._kept[key][1]:
                self._bytes -= self._kept.pop(key)[1]
