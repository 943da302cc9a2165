"""Kill builds and removals on Dataflow at 30 random moments, run them again, compare bytes.

In turn the command, which finds its job again, and the worker, whose job fails with it.
"""

import dataclasses
import functools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from corpus_builds import LENIENT, build
from corpus_files import traces, write_pages
from dataflow_builds import IN_IMAGE, ROOT, beam_options
from trees import data_bytes, send

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.outputs import read_manifest

pytestmark = pytest.mark.kill

KILLS = 30
SEED = int(os.environ.get("MSWITCH_KILL_SEED", "0"))


def kill_in_turn(
    words: Sequence[str], peer: Any, done: Callable[[], bool], again: Callable[[], None]
) -> None:
    """Start a command until it was killed so often; where it is done before, begin again."""
    moments, kills = random.Random(SEED), 0
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
        if done():
            again()
        print(f"{kills} kills, {len(peer.jobs)} jobs", flush=True)
    subprocess.run(words, cwd=ROOT, check=True)


def test_killed_at_random_moments(command, peer, bucket, local_data):
    def again() -> None:
        assert data_bytes(f"{bucket}/corpus/data") == local_data
        storage.remove_tree(f"{bucket}/corpus")

    done = functools.partial(storage.exists, f"{bucket}/corpus/_COMPLETED")
    kill_in_turn(command(IN_IMAGE), peer, done, again)
    assert data_bytes(f"{bucket}/corpus/data") == local_data


def test_a_removal_killed_at_random_moments(peer, bucket, tmp_path):
    """Of 1,000 pages of 100,000: no file has them then, and no crawl brings them back."""
    crawl_file, urls, gone = write_pages(tmp_path, 100_000, 1000, SEED)
    base, whole, out = tmp_path / "base", tmp_path / "whole", f"{bucket}/corpus"
    config = dataclasses.replace(LENIENT, shard_bytes=1_000_000)
    build([crawl_file], base, config)
    shutil.copytree(base, whole)
    remove_pages(whole, urls=str(urls))
    removed = data_bytes(whole / "data")

    def again() -> None:
        if storage.exists(out):
            assert data_bytes(f"{out}/data") == removed
            storage.remove_tree(out)
        send(base, out)

    again()
    words = [sys.executable, "-m", "mswitch.flows.cli.main", "corpus", "remove", out]
    words += [f"--urls={urls}", "--basis=other", "--runner=dataflow", "--"]

    def done() -> bool:
        return "removals" in read_manifest(out, "corpus")

    kill_in_turn([*words, *beam_options(peer, bucket, IN_IMAGE)], peer, done, again)
    assert data_bytes(f"{out}/data") == removed
    build([shutil.copy(crawl_file, tmp_path / "again.jsonl")], out, config, append=True)
    found = verify_corpus(out)
    assert (found["documents"], found["problems"]) == (99_000, [])
    assert traces(out, gone) == []
