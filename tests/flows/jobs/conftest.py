"""The launchers that the contract is tested on."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import local_kubernetes
import pytest
from job_world import World
from local_kubernetes import LocalKubernetesCluster
from local_slurm import LocalSlurmCluster, what_is_missing

from mswitch.flows.jobs.kubernetes import Kubernetes
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.slurm import Slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurmCluster]:
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    with LocalSlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        os.environ.update(running.environment)
        yield running


@pytest.fixture(scope="session")
def kubernetes_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalKubernetesCluster]:
    missing = local_kubernetes.what_is_missing()
    if missing:
        pytest.skip(missing)
    with LocalKubernetesCluster(tmp_path_factory.mktemp("kubernetes")) as running:
        os.environ.update(running.environment)
        yield running


@pytest.fixture
def kubernetes(tmp_path: Path) -> Kubernetes:
    """A launcher of the cluster, whose nodes have this machine's files."""
    volumes = {str(tmp_path): str(tmp_path)}
    return Kubernetes(local_kubernetes.CONTEXT, "none", volumes, python=sys.executable)


@pytest.fixture(
    params=[
        "local",
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "slurm":
        cluster = request.getfixturevalue("cluster")
        world = World(Slurm(), tmp_path / "out", hosts=2, secs=60, cluster=cluster)
    elif request.param == "kubernetes":
        cluster = request.getfixturevalue("kubernetes_cluster")
        launcher = request.getfixturevalue("kubernetes")
        world = World(launcher, tmp_path / "out", hosts=2, secs=90, cluster=cluster)
    else:
        world = World(Local(), tmp_path / "out")
    yield world
    world.clean()
    if world.cluster is not None:
        world.cluster.wait_until_idle()
