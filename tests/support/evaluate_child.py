"""Evaluates a run on batches in memory: `evaluate_child.py RUN [CONFIG JOB]`, these as JSON."""

import json
import sys
from pathlib import Path

import train_child

from mswitch.models.config import EvaluateConfig, JobConfig
from mswitch.models.evaluation.evaluate import evaluate_run
from mswitch.models.training.distributed import membership
from mswitch.models.training.run_directory import read_run

if __name__ == "__main__":
    run, (config, job) = Path(sys.argv[1]), map(json.loads, sys.argv[2:] or ("{}", "{}"))
    with membership(JobConfig(**job), saves_on_sigterm=False):
        config = EvaluateConfig(batch_size=8, **config)
        evaluate_run(run, read_run(run), train_child.MemoryValidation, config)
