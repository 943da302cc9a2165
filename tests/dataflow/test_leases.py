"""A lease on a place in a bucket, of which one process at a time is the holder.

What waits is shown on one store (`bucket`), what a store answers on each (`either`).
"""

import contextlib
import json
import threading
import time

import pytest

from mswitch.pipelines import lease, objects
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.lease import LEASE, Lease, LeaseLostError, follow_lease, hold_lease
from mswitch.pipelines.objects import ChangedError, create, read_version, replace_version

SECS = 1.0


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECS", SECS)


def taken(directory: str) -> Lease:
    """A lease whose holder does not renew it."""
    held = Lease(directory)
    held.take("train")
    return held


def test_an_object_is_replaced_only_in_the_version_that_was_read(either):
    url = f"{either}/object"
    assert read_version(url) is None
    first = replace_version(url, b"one", None)
    assert read_version(url) == (b"one", first)
    second = replace_version(url, b"two", first)
    for version in (None, first):
        with pytest.raises(ChangedError):
            replace_version(url, b"three", version)
    assert read_version(url) == (b"two", second)


def test_an_object_is_created_only_where_there_is_none(either, tmp_path):
    url, path = f"{either}/object", tmp_path / "file"
    for size in (3, 20 << 20):  # Google's client sends large files in parts
        path.write_bytes(b"x" * size)
        create(path, f"{url}-{size}")
        path.write_bytes(b"y" * size)
        with pytest.raises(ChangedError):
            create(path, f"{url}-{size}")
        assert read_version(f"{url}-{size}")[0] == b"x" * size


def test_whoever_finds_it_renewed_is_told_who_holds_it(bucket):
    with hold_lease(bucket, "train") as held:
        time.sleep(1.5 * SECS)
        held.check()
        with pytest.raises(UserError, match=r"in use by another run \(process \d+ on .+\): wait"):
            Lease(bucket).take("train")
    begun = time.monotonic()
    with hold_lease(bucket, "train"):
        assert time.monotonic() - begun < SECS  # free at once


def test_one_that_is_not_renewed_is_taken_over_and_its_holder_stops(bucket, capsys):
    held = taken(bucket)
    held.check()
    with hold_lease(bucket, "evaluate") as other:
        assert "[evaluate] " in capsys.readouterr().err
        with pytest.raises(LeaseLostError, match=r"could not be renewed for 1 s, or another"):
            held.check()
        with pytest.raises(ChangedError):
            held._write("anybody")
        keeper = threading.Thread(target=held.keep)
        keeper.start()
        held.release(keeper)  # of another one's lease nothing is released
        other.check()
        with pytest.raises(UserError, match="in use"):
            Lease(bucket).take("train")


def test_of_many_that_want_it_one_gets_it(bucket):
    won, refused = [], []

    def want():
        try:
            with hold_lease(bucket, "train") as held:
                time.sleep(1.5 * SECS)
                held.check()
                won.append(held)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 3)
    assert all("in use by another run" in line for line in refused)


def test_a_renewal_whose_answer_was_lost_is_not_a_loss(either, monkeypatch):
    held = taken(either)
    send = objects.replace_version

    def send_twice(*request):
        send(*request)
        return send(*request)

    monkeypatch.setattr(lease, "replace_version", send_twice)
    held._write("me")
    held.check()
    monkeypatch.setattr(lease, "replace_version", send)
    held._write("me again")
    found = read_version(held.url)
    assert found is not None
    assert json.loads(found[0])["holder"] == "me again"


def test_a_damaged_one_holds_nobody_up(either):
    replace_version(f"{either}/{LEASE}", b"{", None)
    with hold_lease(either, "train") as held:
        held.check()


def test_a_store_that_does_not_answer_for_a_while_is_not_a_loss(bucket, monkeypatch):
    with hold_lease(bucket, "train") as held:

        def fail(*_):
            raise objects.BucketError("no network")

        with monkeypatch.context() as patch:
            patch.setattr(lease, "replace_version", fail)
            time.sleep(SECS / 2)
            held.check()
        time.sleep(SECS)
        held.check()
        monkeypatch.setattr(lease, "replace_version", fail)
        time.sleep(1.2 * SECS)
        with pytest.raises(LeaseLostError):
            held.check()


def test_others_of_the_job_follow_it_as_long_as_it_is_renewed(bucket):
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(hold_lease(bucket, "train"))
        with follow_lease(bucket, held.key) as followed:
            time.sleep(2 * SECS)
            followed.check()
            stack.close()  # it is free for another at once
            time.sleep(SECS / 2)
            with pytest.raises(LeaseLostError):
                followed.check()


def test_who_follows_stops_before_another_begins(bucket):
    """The holder stands still, and says nothing."""
    held = taken(bucket)
    with follow_lease(bucket, held.key) as followed:
        followed.check()
        begun = time.monotonic()
        with hold_lease(bucket, "train"):
            assert time.monotonic() - begun > SECS / 2
            with pytest.raises(LeaseLostError):
                followed.check()


def test_a_lease_that_is_replaced_while_it_is_read_is_not_lost(bucket, monkeypatch):
    with hold_lease(bucket, "train") as held, follow_lease(bucket, held.key) as followed:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "read_version", lambda url: None)
            time.sleep(SECS / 3)
        followed.check()
        time.sleep(1.5 * SECS)
        followed.check()


def test_who_follows_counts_from_before_the_last_renewal(bucket, monkeypatch):
    secs = 3 * SECS  # a busy machine lets a thread wait for half a second
    monkeypatch.setattr(lease, "LEASE_SECS", secs)
    held = taken(bucket)
    with follow_lease(bucket, held.key) as followed:
        time.sleep(0.4 * secs)
        held._write("me")
        time.sleep(0.4 * secs)
        followed.check()
        time.sleep(0.8 * secs)
        with pytest.raises(LeaseLostError):
            followed.check()
