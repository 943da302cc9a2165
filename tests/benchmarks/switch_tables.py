"""Tables 2 and 3 of Switch Transformers, small: router precision, init scale, three seeds each.

    python tests/benchmarks/switch_tables.py --examples runs/demo/examples --out runs/tables

Trains and evaluates a sparse preset in every variant with every seed, one run on each core at a
time; prints validation loss (nats a token, no token dropped), its spread over seeds, and how many
runs ended in a loss that is no number. Killed, the same command goes on.
"""

import argparse
import itertools
import os
import queue
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

VARIANTS = {
    "float32": ("--dtype", "float32"),
    "bfloat16, router too": ("--router-dtype", "bfloat16"),
    "bfloat16, float32 router (selective precision)": (),
    "the same, init scale 1.0": ("--init-scale", "1.0"),
}


class Runner:
    """Runs commands, each on a core of its own."""

    def __init__(self) -> None:
        self.cores: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.count = len(os.sched_getaffinity(0))
        for core in os.sched_getaffinity(0):
            self.cores.put(core)

    def __call__(self, *commands: tuple[str, ...]) -> int:
        """Run `mswitch` commands in order, up to one that fails; gives the last exit code."""
        core = self.cores.get()
        code = 0
        try:
            for words in commands:
                code = subprocess.call(
                    [sys.executable, "-m", "flows.main", *words],
                    stdout=subprocess.DEVNULL,
                    preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                )
                if code:
                    break
        finally:
            self.cores.put(core)
        return code


def final_loss(run: Path) -> float:
    """Nats a target token over all validation documents, at the last step."""
    last = max((run / "eval").glob("*.parquet"), key=lambda path: int(path.stem))
    table = pq.read_table(last, columns=["nats", "target_tokens"]).to_pydict()
    return sum(table["nats"]) / sum(table["target_tokens"])


def main() -> None:
    """Run everything that is not there, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--examples", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="mswitch-tiny")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runner = Runner()

    def measure(cell: tuple[int, str]) -> float | None:
        seed, variant = cell
        run = arguments.out / f"{list(VARIANTS).index(variant)}-{seed}"
        where = ("--examples", arguments.examples)
        train = (
            "train",
            "--preset",
            arguments.preset,
            *where,
            "--out",
            str(run),
            *VARIANTS[variant],
        )
        for option in ("steps", "batch_size", "warmup_steps"):
            train += (f"--{option.replace('_', '-')}", str(getattr(arguments, option)))
        train += ("--evaluations", "1", "--seed", str(seed))
        code = runner(train, ("evaluate", "--run", str(run), *where))
        return None if code else final_loss(run)

    cells = list(itertools.product(range(arguments.seeds), VARIANTS))
    with ThreadPoolExecutor(runner.count) as pool:
        losses = dict(zip(cells, pool.map(measure, cells), strict=True))
    print(
        "| variant | loss by seed | mean | standard deviation | diverged |\n|---|---|---|---|---|"
    )
    for variant in VARIANTS:
        found = [losses[seed, variant] for seed in range(arguments.seeds)]
        good = [loss for loss in found if loss is not None]
        shown = ", ".join("none" if loss is None else f"{loss:.3f}" for loss in found)
        mean = f"{statistics.mean(good):.3f}" if good else "none"
        deviation = f"{statistics.stdev(good):.3f}" if len(good) > 1 else "none"
        print(f"| {variant} | {shown} | {mean} | {deviation} | {len(found) - len(good)} |")


if __name__ == "__main__":
    sys.exit(main())
