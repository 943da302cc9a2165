"""Reports that several tests read."""

from pathlib import Path

import pytest
from made_reports import Made, make_report


@pytest.fixture(scope="session")
def full(full_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report over all of mC4's codes, half of them with many documents."""
    return make_report(full_pair, tmp_path_factory.mktemp("report") / "full")


@pytest.fixture(scope="session")
def few(few_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report in which only two languages have five documents."""
    return make_report(few_pair, tmp_path_factory.mktemp("report") / "few")
