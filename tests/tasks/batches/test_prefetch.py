import itertools
import threading

import pytest
from processes import run_python

from mswitch.tasks.batches.prefetch import make_ahead


@pytest.mark.parametrize(("prefetch", "workers"), [(0, 1), (1, 1), (3, 1), (2, 4), (8, 4)])
def test_order_does_not_depend_on_which_thread_is_ready_first(prefetch, workers):
    # Each number waits until a later one that is in flight with it is done.
    in_flight = min(prefetch, workers)
    done = [threading.Event() for _ in range(40)]

    def make(number: int) -> int:
        later = number + 1
        if number % max(in_flight, 1) == 0 and in_flight > 1 and later < len(done):
            assert done[later].wait(10)
        done[number].set()
        return number

    found = make_ahead(make, range(40), prefetch=prefetch, workers=workers)
    assert list(found) == list(range(40))


def test_no_more_is_made_ahead_than_was_asked_for():
    made: list[int] = []
    found = make_ahead(lambda number: made.append(number) or number, itertools.count(), prefetch=3)
    assert not made  # nothing begins before it is asked for
    for number in range(20):
        assert next(found) == number
        assert len(made) <= number + 1 + 3
    found.close()
    assert len(made) <= 20 + 3


def test_errors_reach_the_consumer_after_what_came_before_them():
    def make(number: int) -> int:
        if number >= 5:
            raise LookupError(f"number {number}")
        return number

    for prefetch, workers in ((0, 1), (2, 1), (8, 4)):
        found = make_ahead(make, itertools.count(), prefetch=prefetch, workers=workers)
        assert list(itertools.islice(found, 5)) == [0, 1, 2, 3, 4]
        with pytest.raises(LookupError, match="number 5"):
            next(found)
        with pytest.raises(StopIteration):
            next(found)
        assert not prefetching()


def prefetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_closing_ends_the_threads():
    found = make_ahead(lambda number: number, itertools.count(), prefetch=4, workers=3)
    assert next(found) == 0
    assert prefetching()
    found.close()
    assert not prefetching()


def test_a_process_that_forgets_to_close_ends_all_the_same():
    code = (
        "import itertools\n"
        "from mswitch.tasks.batches.prefetch import make_ahead\n"
        "found = make_ahead(str, itertools.count(), prefetch=4, workers=3)\n"
        "print(next(found), next(found))"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")


def test_numbers_out_of_range_are_refused():
    for prefetch, workers in ((-1, 1), (1, 0), (0, -3)):
        with pytest.raises(ValueError, match="give 0 and 1 or more"):
            next(make_ahead(str, range(3), prefetch=prefetch, workers=workers))
