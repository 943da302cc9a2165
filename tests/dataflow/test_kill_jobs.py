"""Kill builds on Dataflow with -9 at 30 random moments, run them again, compare bytes."""

import os
import random
import subprocess

import pytest
from dataflow_builds import IN_IMAGE, ROOT
from trees import data_bytes

from mswitch.pipelines import storage

pytestmark = pytest.mark.kill

KILLS = 30
SEED = int(os.environ.get("MSWITCH_KILL_SEED", "0"))


def test_killed_at_random_moments(command, peer, bucket, local_data):
    """In turn the command, which finds its job again, and the worker, whose job fails with it."""
    moments, kills = random.Random(SEED), 0
    words = command(IN_IMAGE)
    while kills < KILLS:
        process = subprocess.Popen(words, cwd=ROOT)
        try:
            process.wait(moments.uniform(2, 30))
        except subprocess.TimeoutExpired:
            workers = [job.process for job in peer.active() if job.process is not None]
            if workers and kills % 2:
                workers[0].kill()
            else:
                process.kill()
            kills += 1
        process.wait()
        if storage.exists(f"{bucket}/corpus/_COMPLETED"):
            assert data_bytes(f"{bucket}/corpus/data") == local_data
            storage.remove_tree(f"{bucket}/corpus")
        print(f"{kills} kills, {len(peer.jobs)} jobs", flush=True)
    subprocess.run(words, cwd=ROOT, check=True)
    assert data_bytes(f"{bucket}/corpus/data") == local_data
