import numpy as np
import pytest

from mswitch.pipelines.corpus.output_shards import _shard_of


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_are_ranges_of_ids_of_one_size(count):
    ids = np.sort(np.random.default_rng(0).integers(0, 2**64 - 1, (3000, 2), np.uint64), axis=0)
    found = _shard_of(ids, count)
    assert np.all(np.diff(found) >= 0)
    assert np.bincount(found).max() < 1.2 * np.bincount(found).min()
