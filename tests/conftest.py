"""Fixtures that several layers share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO_STEPS = 24


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one real `mswitch demo`, with few training steps.

    Tests that use it belong to one xdist group (`@pytest.mark.xdist_group("demo")`), so that it
    runs once.
    """
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = run_demo(out)
    assert done.returncode == 0, done.stderr
    return out


def run_demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `mswitch demo` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "flows.main", "demo", "--out", str(out),
         "--steps", str(DEMO_STEPS), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PREFECT_HOME": str(out.parent / "prefect")},
    )  # fmt: skip
