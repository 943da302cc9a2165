"""Keep of trained runs what a report reads, in one file: no checkpoints, and no times of steps.

python tests/benchmarks/keep_evaluations.py ev/runs/dense-seed-2 ev/runs/sparse-seed-2 kept.tar.xz
tar xf kept.tar.xz && mswitch report --baseline dense-seed-2 --candidate sparse-seed-2 --out report
"""

import io
import json
import lzma
import sys
import tarfile
from pathlib import Path

from mswitch.models.training.metrics import METRICS, read_metrics
from mswitch.models.training.run_directory import CONFIG, read_run
from mswitch.pipelines.outputs import MARKER


def main(runs: list[Path], out: Path) -> None:
    with tarfile.open(out, "w:xz", preset=9 | lzma.PRESET_EXTREME) as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for run in runs:
            steps = read_run(run)["eval_steps"]
            files = [CONFIG, MARKER, *(f"eval/{step}.parquet" for step in steps)]
            files += [f"routing/{steps[-1]}.parquet"] if (run / "routing").is_dir() else []
            # A run that still trains has fewer: `mswitch report --unfinished` reads those.
            for file in filter(lambda file: (run / file).is_file(), files):
                add(f"{run.name}/{file}", (run / file).read_bytes())
            *_, last = read_metrics(run)
            last.pop("train/step_secs", None)
            add(f"{run.name}/{METRICS}", f"{json.dumps(last)}\n".encode())


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:-1]], Path(sys.argv[-1]))
