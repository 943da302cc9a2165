"""Join branches of a run, each with its own decay, into one run for `mswitch report`.

Each branch began at another step of the run (`mswitch finetune --keep-moments --decay`). The joined
run has the loss at the end of each branch, at the branch's number of steps since the run's begin.

python tests/benchmarks/join_branches.py runs/dense decay/dense-8333 decay/dense-20000 joined/dense
mswitch report --baseline joined/dense --candidate joined/sparse --out report
"""

import json
import shutil
import sys
from pathlib import Path

from mswitch.models.training.metrics import METRICS, read_metrics
from mswitch.models.training.run_directory import CONFIG, read_run
from mswitch.pipelines.outputs import MARKER


def main(run: Path, branches: list[Path], out: Path) -> None:
    (out / "eval").mkdir(parents=True)
    ends = {}
    for branch in branches:
        config = read_run(branch)
        steps = config["train"]["steps"]
        assert config["train"]["decay"] == steps, branch
        end = config["origin"]["steps_counted"] + steps
        shutil.copy(branch / "eval" / f"{steps}.parquet", out / "eval" / f"{end}.parquet")
        *_, ends[end] = read_metrics(branch)
    (out / CONFIG).write_text(json.dumps({**read_run(run), "eval_steps": sorted(ends)}))
    (out / METRICS).write_text(f"{json.dumps(ends[max(ends)])}\n")
    shutil.copy(run / MARKER, out / MARKER)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(branch) for branch in sys.argv[2:-1]], Path(sys.argv[-1]))
