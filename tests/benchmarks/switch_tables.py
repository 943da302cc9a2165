"""Tables of small runs: what a setting does to the loss of the demo's pair, seed by seed.

    python tests/benchmarks/switch_tables.py --examples runs/demo/examples --out runs/tables

`precision` is tables 2 and 3 of Switch Transformers in small; `gap` asks what moves the sparse
model towards its dense twin or away, and whether a wider dense layer helps at all; `router` asks
how its kernel is best drawn; `width` asks whether width or experts help where the layer is narrow.

Trains and evaluates every variant with every seed, one run on each core at a time; prints
validation loss (nats a token, no token dropped), its spread over seeds, and how many runs ended in
a loss that is not a number. After a kill, the same command continues.
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

SPARSE = ("--preset", "mswitch-tiny")
DENSE = ("--preset", "mt5-tiny")
DEEP = ("--encoder-layers", "4", "--decoder-layers", "4")
SLOW = ("--base-learning-rate", "0.5")
SLOWER = ("--base-learning-rate", "0.25")
SLOWEST = ("--base-learning-rate", "0.125")
NARROW = (*SLOW, "--d-ff", "64")

#: Of each table the options of `mswitch train` by the variant's name.
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "precision": {
        "float32": (*SPARSE, "--dtype", "float32"),
        "bfloat16, router too": (*SPARSE, "--router-dtype", "bfloat16"),
        "bfloat16, float32 router (selective precision)": SPARSE,
        "the same, init scale 1.0": (*SPARSE, "--init-scale", "1.0"),
    },
    "gap": {
        "dense": DENSE,
        "dense, d_ff 8 times as wide": (*DENSE, "--d-ff", "3072"),
        "sparse, 8 experts": SPARSE,
        "sparse, 2 experts": (*SPARSE, "--experts", "2"),
        "sparse, 32 experts": (*SPARSE, "--experts", "32"),
        "sparse, balance weight 0.001": (*SPARSE, "--balance-weight", "0.001"),
        "dense, init scale 1": (*DENSE, "--init-scale", "1.0"),
        "sparse, init scale 1": (*SPARSE, "--init-scale", "1.0"),
        "sparse, capacity factor 4": (*SPARSE, "--capacity-factor", "4"),
        "dense, half the learning rate": (*DENSE, *SLOW),
        "sparse, half the learning rate": (*SPARSE, *SLOW),
        "dense, 4+4 layers": (*DENSE, *DEEP),
        "sparse, 4+4 layers": (*SPARSE, *DEEP),
        "dense, a quarter of the learning rate": (*DENSE, *SLOWER),
        "sparse, a quarter of the learning rate": (*SPARSE, *SLOWER),
        "dense, an eighth of the learning rate": (*DENSE, *SLOWEST),
        "sparse, an eighth of the learning rate": (*SPARSE, *SLOWEST),
    },
    "router": {
        "flaxformer": SPARSE,
        "paper": (*SPARSE, "--router-init", "paper"),
    },
    "width": {
        "dense": (*DENSE, *NARROW),
        "dense, d_ff 8 times as wide": (*DENSE, *SLOW, "--d-ff", "512"),
        "sparse, 8 experts": (*SPARSE, *NARROW),
    },
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
                    [sys.executable, "-m", "mswitch.flows.cli.main", *words],
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
    parser.add_argument("--table", choices=TABLES, default="precision")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", help="only these of the table, by name")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = TABLES[arguments.table]
    variants = arguments.variants or list(table)
    if unknown := sorted(set(variants) - set(table)):
        parser.error(f"--variants: no {unknown[0]!r} among {', '.join(map(repr, table))}")
    runner = Runner()

    def measure(cell: tuple[int, str]) -> float | None:
        seed, variant = cell
        run = arguments.out / f"{list(table).index(variant)}-{seed}"
        where = ("--examples", arguments.examples)
        train = ("train", *table[variant], *where, "--out", str(run))
        for option in ("steps", "batch_size", "warmup_steps"):
            train += (f"--{option.replace('_', '-')}", str(getattr(arguments, option)))
        train += ("--evaluations", "1", "--seed", str(seed))
        code = runner(train, ("evaluate", "--run", str(run), *where))
        return None if code else final_loss(run)

    cells = list(itertools.product(range(arguments.seeds), variants))
    with ThreadPoolExecutor(runner.count) as pool:
        losses = dict(zip(cells, pool.map(measure, cells), strict=True))
    print(
        "| variant | loss by seed | mean | standard deviation | diverged |\n|---|---|---|---|---|"
    )
    for variant in variants:
        found = [losses[seed, variant] for seed in range(arguments.seeds)]
        good = [loss for loss in found if loss is not None]
        shown = ", ".join("none" if loss is None else f"{loss:.3f}" for loss in found)
        mean = f"{statistics.mean(good):.3f}" if good else "none"
        deviation = f"{statistics.stdev(good):.3f}" if len(good) > 1 else "none"
        print(f"| {variant} | {shown} | {mean} | {deviation} | {len(found) - len(good)} |")


if __name__ == "__main__":
    sys.exit(main())
