"""The tables of docs/reference/tpu.md and gpu.md: compiled steps, one `mswitch plan` a row.

    make bench-plan        # an hour and 9 GB on two cores; killed, it continues

Needs both compilers (`make setup-plan setup-plan-gpu`). A plan's JSON stays in --out, and its
row is not compiled again.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing import markdown, mswitch, options

from mswitch.models.planning.parts import PARTS
from mswitch.models.planning.plan import compute_ratios
from mswitch.pipelines.outputs import write_atomically

#: Preset, slice and further options of each row; the rest `plan` chooses.
ROWS = (
    ("mt5-base", "v3:4x4", ()),
    ("mt5-base", "v5p:2x2x1", ()),
    ("mt5-base", "v5p:4x4x4", ()),
    ("mt5-base", "v5p:4x4x4", ("--attention", "xla")),
    ("mt5-base", "v5p:4x4x4", ("--remat", "layers")),
    ("mt5-base", "v5e:4x4", ()),
    ("mt5-base", "v5e:16x16", ()),
    ("mswitch-base", "v3:4x4", ()),
    ("mswitch-base", "v5p:4x4x4", ()),
    ("mswitch-base", "v5p:4x4x4", ("--attention", "xla")),
    ("mswitch-base", "v5e:8x8", ()),
    ("mswitch-base", "v5e:16x16", ()),
    ("switch-xxl", "v5p:4x4x4", ("--experts", "128")),
    ("switch-c", "v5p:4x8x8", ()),
)
GPU_ROWS = (
    ("mt5-base", "h100:8", ()),
    ("mt5-base", "h100:8", ("--attention", "cudnn")),
    ("mswitch-base", "h100:8", ()),
    ("mswitch-base", "h100:8", ("--attention", "cudnn")),
    ("mt5-xl", "h100:8", ()),
    ("mswitch-base", "h100:8x4", ()),
)
#: Dense and sparse preset, the latter's options, and slice, of Switch Transformers' comparisons;
#: T5-XXL is what the paper compares Switch-C with, T5-C is its twin.
PAIRS = (
    ("t5-base", "switch-base-128", (), "v3:4x4"),
    ("t5-large-geglu", "switch-large", (), "v5p:4x4x4"),
    ("t5-xxl", "switch-xxl", ("--experts", "128"), "v5p:4x4x4"),
    ("t5-xxl", "switch-c", (), "v5p:4x8x8"),
    ("t5-c", "switch-c", (), "v5p:4x8x8"),
)
#: The batch of T5: 2^20 input tokens.
BATCH = ("--batch-size", "2048", "--inputs-length", "512", "--targets-length", "114")
GIB = 1 << 30


def main() -> None:
    out = options(__doc__, out=Path("runs/plan")).out
    out.mkdir(parents=True, exist_ok=True)
    plans = [planned(out, *row) for row in ROWS]
    gpu_plans = [planned(out, *row) for row in GPU_ROWS]
    pairs = [
        (planned(out, dense, topology, BATCH), planned(out, sparse, topology, (*more, *BATCH)))
        for dense, sparse, more, topology in PAIRS
    ]
    tables = (
        (MEMORY_COLUMNS, memory_row, plans),
        (WORK_COLUMNS, work_row, [plan for plan in plans if plan["fits"]]),
        (MEMORY_COLUMNS, memory_row, gpu_plans),
        (WORK_COLUMNS, work_row, gpu_plans),
        (PARTS_COLUMNS, parts_row, [*plans, *gpu_plans]),
        (PAIR_COLUMNS, pair_row, pairs),
    )
    for columns, row, rows in tables:
        print("", *markdown(columns, map(row, rows)), sep="\n")


def planned(out: Path, preset: str, topology: str, more: tuple[str, ...]) -> dict[str, Any]:
    """The plan of one row, made if it is not there."""
    name = "-".join((preset, topology.replace(":", "-"), *more)).replace("--", "")
    path = out / f"{name}.json"
    if not path.exists():
        command = mswitch("plan", "--preset", preset, "--topology", topology, *more, "--json")
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        write_atomically(path, made.splitlines()[-1] + "\n")
    return json.loads(path.read_text())


MEMORY_COLUMNS = (
    *("preset", "slice", "mesh, microbatches", "loss chunks", "parameters"),
    *("peak", "available", "predicted"),
)
#: How a setting is marked by what it recomputes, and by its attention, unless it is the kernel.
REMAT = {"none": "", "attention": " a", "layers": " r"}
ATTENTION = {"kernel": "", "xla": " x", "cudnn": " c"}
WORK_COLUMNS = (
    *("preset", "slice", "FLOPs", "ratio", "all-gather, all-reduce, all-to-all (GiB)"),
    *("compute s", "memory s", "network s"),
)


def gib(plan: Mapping[str, Any], name: str, digits: int = 1) -> str:
    value = plan[f"{name}_bytes_per_device"]
    return "unknown" if value is None else f"{value / GIB:.{digits}f}"


def memory_row(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """What a device holds."""
    mesh = " x ".join(str(plan["mesh"][axis]) for axis in ("data", "expert", "model"))
    peak = plan["peak_bytes_per_device"]
    error = f" ({plan['predicted_bytes_per_device'] / peak - 1:+.0%})" if peak else ""
    return (
        plan["preset"],
        plan["topology"],
        f"{mesh}, {plan['microbatches']}{REMAT[plan['remat']]}{ATTENTION[plan['attention']]}",
        str(plan["loss_chunks"]),
        gib(plan, "parameter", 2),
        gib(plan, "peak") + ("" if plan["fits"] else ", does not fit"),
        gib(plan, "hbm", 2),
        f"{gib(plan, 'predicted')}{error}",
    )


def work_row(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """What a step computes and sends."""
    kinds = ("all-gather", "all-reduce", "all-to-all")
    sent = (plan["collectives"].get(kind, {"bytes": 0})["bytes"] / GIB for kind in kinds)
    estimate = plan["estimate"]
    times = (estimate[f"{what}_secs"] for what in ("compute", "memory", "network"))
    return (
        plan["preset"],
        plan["topology"],
        f"{plan['flops_per_step']:.3e}",
        f"{plan['flops_ratio']:.3f}",
        ", ".join(f"{size:.2f}" for size in sent),
        *(f"{secs:.2g}" for secs in times),
    )


PARTS_COLUMNS = ("preset", "slice", *PARTS, "rest", "MFU at most")


def parts_row(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Traffic of each part, and its time by the larger of products and traffic."""
    parts = (plan["parts"].get(name) for name in (*PARTS, "rest"))
    cells = (f"{p['memory_bytes'] / 1e9:.1f}, {p['secs']:.3f}" if p else "-" for p in parts)
    mfu = plan["mfu_bound"]
    return plan["preset"], plan["topology"], *cells, f"{mfu:.0%}" if mfu else "-"


PAIR_COLUMNS = (
    *("dense, sparse", "slice", "meshes, microbatches", "peaks, GiB", "parameters"),
    *("FLOPs a token", "ratio", "estimated step s", "ratio"),
)


def pair_row(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[str, ...]:
    """What both cost, the dense model's figures first."""
    dense, sparse = pair
    found = compute_ratios(sparse, dense)
    rows = [memory_row(plan) for plan in pair]
    secs = (f"{plan['estimated_step_secs']:.2g}" for plan in pair)
    return (
        f"{dense['preset']}, {sparse['preset']}",
        dense["topology"],
        "; ".join(row[2] for row in rows),
        ", ".join(row[MEMORY_COLUMNS.index("peak")] for row in rows),
        ", ".join(f"{plan['parameters'] / 1e9:.4g}B" for plan in pair),
        ", ".join(f"{plan['flops_per_token']:.3g}" for plan in pair),
        f"{found['flops_per_token']:.2f}",
        ", ".join(secs),
        f"{found['estimated_step_secs']:.2f}",
    )


if __name__ == "__main__":
    main()
