"""The systemd units that the documentation shows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "prefect-server.md"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_takes_the_units_of_the_documentation(tmp_path):
    units = re.findall(
        r"`/etc/systemd/system/([\w-]+\.service)`:\n\n```ini\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert [name for name, _ in units] == ["mswitch-server.service", "mswitch-worker.service"]
    for name, text in units:
        # It also looks whether the programs are there.
        (tmp_path / name).write_text(text.replace("/opt/mswitch", sys.prefix))
        done = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
            env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        )
        assert (done.returncode, done.stderr) == (0, "")
