"""What the Flink cluster of this machine says without being started (see make test-flink)."""

import shutil

import local_flink
import pytest

from mswitch.pipelines.errors import UserError


@pytest.mark.parametrize(
    ("java", "message"), [(None, "needs Java 17"), ("/usr/bin/java", "run make setup-flink")]
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, java, message):
    monkeypatch.setattr(shutil, "which", lambda _: java)
    monkeypatch.setattr(local_flink, "INSTALLATION", tmp_path)
    with pytest.raises(UserError, match=message):
        local_flink.LocalFlinkCluster(tmp_path)


def test_a_process_that_dies_ends_the_start_with_its_log(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "java").write_text("#!/bin/sh\necho no such class; exit 1\n")
    (programs / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    monkeypatch.setattr(local_flink, "what_is_missing", lambda: "")
    with (
        pytest.raises(RuntimeError, match="no such class"),
        local_flink.LocalFlinkCluster(tmp_path),
    ):
        pass
