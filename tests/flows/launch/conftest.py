"""The launchers that the contract is tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_world import World

from flows.launch.local import Local


@pytest.fixture(params=["local"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(Local(), tmp_path / "out")
    yield world
    world.clean()
