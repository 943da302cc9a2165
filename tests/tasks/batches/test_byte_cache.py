import threading

import pytest

from mswitch.tasks.batches.byte_cache import ByteCache


def test_what_was_used_longest_ago_goes_first():
    cache, loaded = ByteCache(30), []

    def get(key: str, size: int = 10) -> str:
        def load() -> tuple[str, int]:
            loaded.append(key)
            return key.upper(), size

        return cache.get(key, load)

    assert [get(key) for key in "abcabc"] == list("ABCABC")
    assert loaded == list("abc")
    get("a")
    get("d")
    assert [key in cache for key in "abcd"] == [True, False, True, True]
    get("huge", 100)  # more than the budget: kept alone
    assert [key in cache for key in ("a", "c", "d", "huge")] == [False, False, False, True]
    get("a")
    assert "huge" not in cache


def test_what_several_threads_want_is_loaded_once():
    cache, loaded, begin = ByteCache(100), [], threading.Barrier(8)
    found: list[str] = []

    def load() -> tuple[str, int]:
        loaded.append(1)
        threading.Event().wait(0.05)
        return "value", 1

    def read() -> None:
        begin.wait(10)
        found.append(cache.get("key", load))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, loaded) == (["value"] * 8, [1])


def test_failures_are_raised_and_not_kept():
    cache = ByteCache(100)

    def fail() -> tuple[str, int]:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("key", fail)
    assert "key" not in cache
    assert cache.get("key", lambda: ("back", 4)) == "back"
