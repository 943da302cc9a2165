"""PostgreSQL in a directory of its own, on loopback. `make setup-postgres` installs it."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_port, wait_for

#: Debian keeps one version beside another, outside of PATH.
_DEBIAN = Path("/usr/lib/postgresql")


def _programs() -> Path:
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else sorted(_DEBIAN.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (make setup-postgres)")
    return found[-1].parent


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yields the URL of its database as Prefect takes it."""
    programs = _programs()
    # It refuses to run as root.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    port, password = free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        (top / "password").write_text(password)
        if user:
            for path in (top, top / "password"):
                shutil.chown(path, **user)
        run = {**user, "cwd": top, "stdout": subprocess.DEVNULL}
        subprocess.run(
            [
                programs / "initdb",
                f"--pgdata={top / 'data'}",
                "--username=prefect",
                "--auth=scram-sha-256",
                f"--pwfile={top / 'password'}",
                "--no-sync",
            ],
            check=True,
            **run,
        )
        with open(top / "log", "wb") as log:
            process = subprocess.Popen(
                [
                    programs / "postgres",
                    *("-D", top / "data"),
                    *("-p", str(port)),
                    *("-c", "listen_addresses=127.0.0.1"),
                    *("-c", "unix_socket_directories="),
                ],
                stderr=log,
                **run,
            )
        try:
            ready = [programs / "pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
            wait_for(
                lambda: process.poll() is not None or not subprocess.call(ready),
                every=0.2,
                why=(top / "log").read_text,
            )
            assert process.poll() is None, (top / "log").read_text()
            yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # ends its connections
            process.wait(60)
