"""Runs that several tests compare; none may change those of the whole session."""

from pathlib import Path

import pytest
from report_runs import Scenario, many_languages, write_runs


@pytest.fixture(scope="session")
def full_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give two runs over all of mC4's codes, half of them with many documents."""
    return write_runs(tmp_path_factory.mktemp("full"), many_languages())


@pytest.fixture(scope="session")
def few_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give two runs over all of mC4's codes, only two of them with five documents."""
    return write_runs(tmp_path_factory.mktemp("few"), many_languages(few=True))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Give a small pair of runs that a test may damage."""
    return write_runs(tmp_path, Scenario({"de": 8, "sw": 6, "yo": 2}, 3.0, steps=200))
