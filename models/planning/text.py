"""A plan as a page of text."""

from typing import Any

from mswitch.models.hardware import GIB


def format_plan(plan: dict[str, Any]) -> str:
    """Lay a plan out for a terminal."""
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    lines = [
        f"{plan['preset']} on {plan['topology']} ({plan['devices']} devices): {verdict}",
        "",
        f"  batch           {plan['batch_size']:,} x ({plan['inputs_length']:,} + "
        f"{plan['targets_length']:,}) tokens",
        f"  setting         {train_options(plan)}",
        f"  parameters      {plan['parameters']:,}",
        "",
        "per device, GiB",
        f"  parameters      {_gib(plan['parameter_bytes_per_device'])}",
        f"  optimizer       {_gib(plan['optimizer_bytes_per_device'])}",
        f"  peak            {_gib(plan['peak_bytes_per_device'])}",
        f"  predicted       {_gib(plan['predicted_bytes_per_device'])}",
        f"  available       {_gib(plan['hbm_bytes_per_device'])}",
    ]
    if plan["estimate"] is not None:
        lines += _costs(plan)
    lines += [
        "",
        f"compiled in {plan['compile_secs']:,} s ({plan['compile_cpu_secs']:,} s of CPU) on this "
        "machine; nothing was run",
    ]
    if plan["suggestions"]:
        lines += ["", "predicted to fit, the fastest first"]
        lines += [
            f"  {train_options(one)}: {one['predicted_bytes_per_device'] / GIB:.1f} GiB"
            for one in plan["suggestions"]
        ]
    elif smaller := plan["fitting_batch_size"]:
        lines += ["", f"no setting is predicted to fit, but --batch-size {smaller} is"]
    else:
        lines += ["", "no setting is predicted to fit, nor a smaller batch: take a larger slice"]
    return "\n".join(lines)


def format_pair(pair: dict[str, Any]) -> str:
    """Lay two plans out, and what one costs as a multiple of the other."""
    plan, baseline, ratios = pair["plan"], pair["pair"], pair["ratios"]
    secs = ratios["estimated_step_secs"]
    lines = [
        f"{plan['preset']} over {baseline['preset']}",
        f"  parameters      {ratios['parameters']:.4g}",
        f"  FLOPs a token   {ratios['flops_per_token']:.3f} "
        f"({plan['flops_per_token']:.4g} over {baseline['flops_per_token']:.4g})",
        "  estimated time  "
        + (
            "unknown"
            if secs is None
            else f"{secs:.2f}: with N times fewer steps, about N / {secs:.2f} times faster"
        ),
    ]
    return "\n".join([format_plan(baseline), "", format_plan(plan), "", *lines])


def _costs(plan: dict[str, Any]) -> list[str]:
    estimate = plan["estimate"]
    lines = [
        "",
        "per step",
        f"  FLOPs           {plan['flops_per_step']:.4g}, "
        f"{plan['flops_ratio']:.3f} of the analytic count"
        + (", recomputing included" if plan["recomputed_flops_per_step"] else ""),
    ]
    for kind, one in sorted(plan["collectives"].items()):
        lines.append(
            f"  {kind:15} {one['count']:,} times, each device sends {one['bytes'] / GIB:,.2f} GiB"
        )
    return [
        *lines,
        f"  estimated time  at least {estimate_secs(plan['estimated_step_secs'])}: compute "
        f"{estimate_secs(estimate['compute_secs'])}, memory "
        f"{estimate_secs(estimate['memory_secs'])}, network "
        f"{estimate_secs(estimate['network_secs'])}, each at its peak rate",
    ]


def estimate_secs(secs: float) -> str:
    """Seconds with two figures: more would promise too much."""
    return f"{secs:.2g} s"


def _gib(size: int | None) -> str:
    return f"{'-':>10}" if size is None else f"{size / GIB:10.2f}"


def train_options(setting: dict[str, Any]) -> str:
    """Return a setting as options of `mswitch train`."""
    options = [f"--{axis}-parallel {size}" for axis, size in setting["mesh"].items()]
    options.append(f"--microbatches {setting['microbatches']}")
    if setting["loss_chunks"] > 1:
        options.append(f"--loss-chunks {setting['loss_chunks']}")
    if setting["remat"] != "none":
        options.append(f"--remat {setting['remat']}")
    if setting["scan_layers"]:
        options.append("--scan-layers")
    return " ".join(options)
