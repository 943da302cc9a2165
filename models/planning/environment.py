"""Run the compiler in this Python, or in a separate environment that has the compiler."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mswitch.models.planning.compile import (
    ENVIRONMENT,
    GPU_ENVIRONMENT,
    CompileRequest,
    CompileResult,
)
from mswitch.models.planning.topology import parse_topology
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A compiler for a platform.

    Attributes:
        module: a module that it installs.
        extra: mswitch's extra that installs it.
        size: disk space of its environment.
        variables: environment variables for it.
    """

    module: str
    extra: str
    size: str
    variables: Mapping[str, str]


COMPILERS = {
    "tpu": Compiler("libtpu", "plan", "1.4 GB", ENVIRONMENT),
    "gpu": Compiler("jax_cuda12_plugin", "plan-gpu", "2.5 GB", GPU_ENVIRONMENT),
}


def find_python(compiler: Compiler) -> Path:
    """Return a Python interpreter that has the compiler for TPUs or GPUs.

    In a checkout, make the compiler's environment if needed.
    """
    module, extra = compiler.module, compiler.extra
    if importlib.util.find_spec(module) is not None:
        return Path(sys.executable)
    if not (ROOT / "Makefile").exists():
        raise UserError(
            f"the module {module} is not installed: pip install 'mswitch[{extra}]' brings it"
        )
    environment = ROOT / f".venv-{extra}"
    if (environment / "ready").exists():
        return environment / "bin/python"
    say("plan", f"making {environment.name}, the environment with {module} ({compiler.size}, once)")
    done = subprocess.run(
        ["make", "--no-print-directory", f"setup-{extra}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"`make setup-{extra}` failed, which installs {module}: {reason}")
    return environment / "bin/python"


def compile_elsewhere(request: CompileRequest) -> CompileResult:
    """Run `compile_step` in a child process whose Python has the compiler for TPUs or GPUs."""
    compiler = COMPILERS[parse_topology(request.topology).platform]
    python = find_python(compiler)
    # Nothing is written to this pipe. It closes when this process ends for any reason, which ends
    # the child.
    lifeline, held = os.pipe()
    try:
        done = subprocess.run(
            [python, "-m", "mswitch.models.planning.compile", request.to_json()],
            stdin=lifeline,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, **compiler.variables},
        )
    finally:
        os.close(lifeline)
        os.close(held)
    if done.returncode:
        raise RuntimeError(f"compiling for {request.topology} failed:\n{done.stderr[-4000:]}")
    return CompileResult(**json.loads(done.stdout.splitlines()[-1]))
