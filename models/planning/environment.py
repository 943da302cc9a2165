"""The Python that has libtpu: `.venv-plan` beside the sources, or this one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from mswitch.models.planning.compile import ENVIRONMENT, CompileRequest, CompileResult
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

ROOT = Path(__file__).resolve().parents[2]
READY = ".venv-plan/ready"
PYTHON = ".venv-plan/bin/python"


def planning_python() -> Path:
    """Find a Python with libtpu; in a checkout, make `.venv-plan` where it is absent."""
    if importlib.util.find_spec("libtpu") is not None:
        return Path(sys.executable)
    if not (ROOT / "Makefile").exists():
        raise UserError("the module libtpu is not installed: pip install 'mswitch[plan]' brings it")
    if (ROOT / READY).exists():
        return ROOT / PYTHON
    say("plan", "making .venv-plan, the environment with libtpu (1.4 GB of disk, once)")
    done = subprocess.run(
        ["make", "--no-print-directory", "setup-plan"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"`make setup-plan` failed, which installs libtpu: {reason}")
    return ROOT / PYTHON


def compile_elsewhere(request: CompileRequest) -> CompileResult:
    """`compile_step` in its own process, which has libtpu."""
    python = planning_python()
    # Nothing is written to it: the child ends when this process does, however that comes.
    lifeline, held = os.pipe()
    try:
        done = subprocess.run(
            [python, "-m", "mswitch.models.planning.compile", request.as_json()],
            stdin=lifeline,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
        )
    finally:
        os.close(lifeline)
        os.close(held)
    if done.returncode:
        raise RuntimeError(f"compiling for {request.topology} failed:\n{done.stderr[-4000:]}")
    return CompileResult(**json.loads(done.stdout.splitlines()[-1]))
