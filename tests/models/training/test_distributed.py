"""What processes of a job say to each other."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from processes import free_port

from mswitch.models.config import JobConfig
from mswitch.models.device_errors import explain_memory
from mswitch.models.training.distributed import membership
from mswitch.pipelines.errors import UserError

#: Prints the errors that one of two processes raises, and how it ends.
SCRIPT = """
import sys
import jax
from mswitch.models.config import JobConfig
from mswitch.models.training.distributed import (
    WAITED,
    JobError,
    agree,
    membership,
    on_first,
    together,
)
from mswitch.pipelines.errors import UserError

number = int(sys.argv[2])
job = JobConfig(coordinator_address=sys.argv[1], num_processes=2, process_id=number)


def attempt(act):
    try:
        print(act())
    except (JobError, ZeroDivisionError) as error:
        print(repr(error))


def full():
    raise OSError(28, "No space left on device", "eval/1.parquet")


def refuse():
    raise UserError(f"{WAITED}" if number == 0 else "the disk does not answer")


with membership(job):
    attempt(lambda: agree("the same"))
    attempt(lambda: agree(f"steps {number}"))
    attempt(lambda: on_first(lambda: jax.process_index()))
    attempt(lambda: on_first(full))
    attempt(lambda: on_first(lambda: 1 / 0))
    attempt(lambda: together(refuse))
"""


def test_all_processes_hear_what_is_wrong_in_one():
    address = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(number)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for number, process in enumerate(started):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        said = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert said.pop(3).startswith("JobError('no space left on the disk of eval/1.parquet (/")
        assert said == [
            "None",
            "JobError('processes 0 and 1 were given different options, or another run: give the "
            "same command on all machines')",
            "0",
            "JobError(\"process 0 failed: ZeroDivisionError('division by zero')\")"
            if number
            else "ZeroDivisionError('division by zero')",
            "JobError('process 1: the disk does not answer')",
        ]


def test_a_device_without_enough_memory_is_no_defect():
    explained = (
        r"too little memory \(RESOURCE_EXHAUSTED.*\): .*\(if the command has them: "
        "--model-parallel, .*--microbatches"
    )
    with pytest.raises(UserError, match=explained), membership(JobConfig()):
        jax.block_until_ready(jnp.zeros(1 << 44))
    for other in ("INTERNAL: else", "RESOURCE_EXHAUSTED: No space left on device"):
        with pytest.raises(ValueError, match=other), explain_memory():
            raise ValueError(other)
