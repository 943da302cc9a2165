"""What builds on the peer of Dataflow have in common."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
IMAGE = "example.test/mswitch:1"
PHASES = ("ingest", "finish", "shards")
RULES = ["--min-lines=1", "--min-long-line-characters=1", "--language-threshold=0.7",
         "--min-validation-documents=1", "--shard-bytes=2000", "--bucket-bytes=500"]  # fmt: skip
