"""The launchers that the contract is tested on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_world import World
from local_slurm import LocalSlurmCluster, what_is_missing

from flows.launch.local import Local
from flows.launch.slurm import Slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurmCluster]:
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    with LocalSlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        os.environ.update(running.environment)
        yield running


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.slurm)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "slurm":
        request.getfixturevalue("cluster")
        world = World(Slurm(), tmp_path / "out", hosts=2, secs=60)
    else:
        world = World(Local(), tmp_path / "out")
    yield world
    world.clean()
