"""What builds on the peer of Dataflow have in common."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
IMAGE = "example.test/mswitch:1"
IN_IMAGE = f"--sdk_container_image={IMAGE}"
PHASES = ("ingest", "finish", "shards")
RULES = ["--min-lines=1", "--min-long-line-characters=1", "--language-threshold=0.7",
         "--min-validation-documents=1", "--shard-bytes=2000", "--bucket-bytes=500"]  # fmt: skip


def beam_options(peer: Any, bucket: str, *more: str) -> list[str]:
    """What a command says to Beam."""
    return [
        *("--project=test-project", "--region=europe-west4", f"--temp_location={bucket}/tmp"),
        *(f"--dataflow_endpoint={peer.address}", *more),
    ]


def phases_of(jobs: list[Any]) -> list[str]:
    """The phases of a build of a corpus that jobs are for, in their order."""
    names = [job.spec["name"].removeprefix("mswitch-corpus-") for job in jobs]
    return [name.rpartition("-")[0] for name in names]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it failed."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("mswitch: ")]
    return line
