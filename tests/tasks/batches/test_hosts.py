"""The global batch is the same to the byte, however many hosts, threads and restarts make it."""

import hashlib
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.collate import Batch, pack_rows
from mswitch.tasks.batches.training import TrainBatches

BATCH_SIZE, STEPS = 16, 24
HOST_COUNTS = (1, 2, 4, 8)


def digest(batch: Batch) -> str:
    """Of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(batch):
        array = batch[name]
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def joined(parts: list[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module", params=["small_examples", "finished_examples"])
def examples(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def expected(examples: Path) -> list[str]:
    whole = TrainBatches(examples, BATCH_SIZE, seed=5)
    return [digest(whole.batch(step)) for step in range(STEPS)]


@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("hosts", HOST_COUNTS)
def test_hosts_put_together_are_the_global_batch(examples, expected, hosts, pack):
    whole = TrainBatches(examples, BATCH_SIZE, seed=5)
    parts = [
        TrainBatches(examples, BATCH_SIZE, 5, host=n, hosts=hosts, pack=pack) for n in range(hosts)
    ]
    assert {part.rows for part in parts} == {BATCH_SIZE // pack // hosts}
    for step in (*range(STEPS), 7, 0):
        batch = whole.batch(step)
        assert digest(batch) == expected[step]
        made = [part.batch(step) for part in parts]
        assert digest(joined(made)) == digest(batch if pack == 1 else pack_rows(batch, pack))
    elsewhere = pickle.loads(pickle.dumps(parts[-1]))
    assert digest(elsewhere.batch(3)) == digest(parts[-1].batch(3))


@pytest.mark.parametrize(("prefetch", "workers"), [(0, 1), (1, 1), (2, 1), (3, 2), (8, 4)])
def test_prefetch_workers_and_restarts_change_nothing(examples, expected, prefetch, workers):
    for start in (0, 1, STEPS // 2, STEPS - 1):
        batches = TrainBatches(examples, BATCH_SIZE, seed=5)  # a restarted process has nothing
        found = batches.iterate(start, prefetch=prefetch, workers=workers)
        steps = itertools.islice(found, STEPS - start)
        assert [digest(batch) for batch in steps] == expected[start:]
        found.close()


def test_hosts_that_do_not_fit_are_refused(small_examples):
    for host, hosts in ((0, 0), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match=f"^host is {host} of {hosts} hosts: give 0 to"):
            TrainBatches(small_examples, BATCH_SIZE, host=host, hosts=hosts)
    with pytest.raises(UserError, match=r"^batch_size is 16: give a multiple of 3, since 3 hosts"):
        TrainBatches(small_examples, BATCH_SIZE, host=0, hosts=3)


def test_rows_that_do_not_fit_are_refused(small_examples):
    with pytest.raises(UserError, match=r"^pack is 0: give at least 1"):
        TrainBatches(small_examples, BATCH_SIZE, pack=0)
    fix = "give a multiple of 32, since 4 hosts share a batch and 8 examples a row"
    with pytest.raises(UserError, match=f"^batch_size is 16: {fix}"):
        TrainBatches(small_examples, BATCH_SIZE, hosts=4, pack=8)


def test_grain_takes_batches_as_a_source(small_examples):
    import grain

    batches = TrainBatches(small_examples, BATCH_SIZE, seed=5, steps=STEPS, host=1, hosts=2)
    expected = [digest(batches.batch(step)) for step in range(STEPS)]
    dataset = grain.MapDataset.source(batches)
    assert len(dataset) == STEPS
    assert [digest(dataset[step]) for step in range(STEPS)] == expected
    threads = grain.ReadOptions(num_threads=3, prefetch_buffer_size=4)
    for start in (0, 5):
        assert [digest(b) for b in dataset[start:].to_iter_dataset(threads)] == expected[start:]
    elsewhere = pickle.loads(pickle.dumps(batches))  # what Grain's worker processes get
    assert digest(elsewhere.batch(5)) == expected[5]
    with pytest.raises(IndexError):
        batches[STEPS]
