"""Format a plan as a page of text."""

from typing import Any

from mswitch.models.hardware import GIB


def format_plan(plan: dict[str, Any]) -> str:
    """Format a plan for a terminal."""
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    lines = [
        f"{plan['preset']} on {plan['topology']} ({plan['devices']} devices): {verdict}",
        "",
        f"  batch           {plan['batch_size']:,} x ({plan['inputs_length']:,} + "
        f"{plan['targets_length']:,}) tokens",
        f"  setting         {format_options(plan)}",
        f"  parameters      {plan['parameters']:,}",
        "",
        "per device, GiB",
        f"  parameters      {_format_gib(plan['parameter_bytes_per_device'])}",
        f"  optimizer       {_format_gib(plan['optimizer_bytes_per_device'])}",
        f"  peak            {_format_gib(plan['peak_bytes_per_device'])}",
        f"  predicted       {_format_gib(plan['predicted_bytes_per_device'])}",
        f"  available       {_format_gib(plan['hbm_bytes_per_device'])}",
    ]
    if plan["estimate"] is not None:
        lines += _format_costs(plan)
    lines += [
        "",
        f"compiled in {plan['compile_secs']:,} s ({plan['compile_cpu_secs']:,} s of CPU) on this "
        "machine; nothing was run",
    ]
    if plan["suggestions"]:
        lines += ["", "predicted to fit, the fastest first"]
        lines += [
            f"  {format_options(setting)}: {setting['predicted_bytes_per_device'] / GIB:.1f} GiB"
            for setting in plan["suggestions"]
        ]
    elif smaller := plan["fitting_batch_size"]:
        lines += ["", f"no setting is predicted to fit, but --batch-size {smaller} is"]
    else:
        lines += ["", "no setting or smaller batch is predicted to fit: use a larger slice"]
    return "\n".join(lines)


def format_pair(pair: dict[str, Any]) -> str:
    """Format two plans, and the ratios between their costs."""
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


def format_comparison(comparison: dict[str, Any]) -> str:
    """Format two plans side by side."""
    plans = [comparison["plan"], comparison["compared"]]
    changed = " ".join(f"{name}={value}" for name, value in comparison["changed"].items())
    names = list(dict.fromkeys(name for plan in plans for name in plan["parts"]))
    columns = [_list_figures(plan, names) for plan in plans]
    rows = [("", "as asked", changed)]
    rows += [(name, *(column[name] for column in columns)) for name in columns[0]]
    lines = [f"{name:18}{first:>24}{second:>24}" for name, first, second in rows]
    for title, plan in zip(("as asked", changed), plans, strict=True):
        lines += ["", title, f"  {format_options(plan)}"]
    return "\n".join(lines)


def _list_figures(plan: dict[str, Any], parts: list[str]) -> dict[str, str]:
    estimate = plan["estimate"] or {}

    def secs(value: float | None) -> str:
        return "-" if value is None else format_secs(value)

    return {
        "preset": plan["preset"],
        "topology": plan["topology"],
        "fits": "yes" if plan["fits"] else "NO",
        "peak, GiB": _format_gib(plan["peak_bytes_per_device"]).strip(),
        "predicted, GiB": _format_gib(plan["predicted_bytes_per_device"]).strip(),
        "FLOPs a step": "-" if plan["flops_per_step"] is None else f"{plan['flops_per_step']:.4g}",
        "compute": secs(estimate.get("compute_secs")),
        "memory": secs(estimate.get("memory_secs")),
        "network": secs(estimate.get("network_secs")),
        "step, at least": secs(plan["estimated_step_secs"]),
        "MFU, at most": "-" if plan["mfu_bound"] is None else f"{plan['mfu_bound']:.0%}",
        **{name: _format_part(plan["parts"].get(name)) for name in parts},
    }


def _format_part(part: dict[str, float] | None) -> str:
    return "-" if part is None else f"{part['memory_bytes'] / 1e9:,.1f} GB, {part['secs']:.4f} s"


def _format_parts(plan: dict[str, Any]) -> list[str]:
    rows = list(plan["parts"].items())
    keys = ("memory_bytes", "flops", "secs")
    rows.append(("all", {key: sum(part[key] for _, part in rows) for key in keys}))
    return [
        "",
        f"{'per step and device':18}{'GB':>10}{'TFLOP':>10}{'s':>10}",
        *(
            f"  {name:16}{part['memory_bytes'] / 1e9:10.1f}{part['flops'] / 1e12:10.2f}"
            f"{part['secs']:10.4f}"
            for name, part in rows
        ),
    ]


def _format_costs(plan: dict[str, Any]) -> list[str]:
    estimate = plan["estimate"]
    lines = [
        "",
        "per step",
        f"  FLOPs           {plan['flops_per_step']:.4g}, "
        f"{plan['flops_ratio']:.3f} of the analytic count"
        + (", recomputing included" if plan["recomputed_flops_per_step"] else ""),
    ]
    for kind, entry in sorted(plan["collectives"].items()):
        sent = f"each device sends {entry['bytes'] / GIB:,.2f} GiB"
        lines.append(f"  {kind:15} {entry['count']:,} times, {sent}")
    resources = ", ".join(
        f"{name.removesuffix('_secs').replace('_', ' ')} {format_secs(secs)}"
        for name, secs in estimate.items()
    )
    return [
        *lines,
        f"  estimated time  at least {format_secs(plan['estimated_step_secs'])}: {resources}, "
        "each at its peak rate",
        f"  MFU             at most {plan['mfu_bound']:.0%}",
        *_format_parts(plan),
    ]


def format_secs(secs: float) -> str:
    """Format seconds with two significant digits; more would suggest too much precision."""
    return f"{secs:.2g} s"


def _format_gib(size: int | None) -> str:
    return f"{'-':>10}" if size is None else f"{size / GIB:10.2f}"


def format_options(setting: dict[str, Any]) -> str:
    """Return a setting as options of `mswitch train`."""
    options = [f"--{axis}-parallel {size}" for axis, size in setting["mesh"].items()]
    options.append(f"--microbatches {setting['microbatches']}")
    if setting["loss_chunks"] > 1:
        options.append(f"--loss-chunks {setting['loss_chunks']}")
    if setting["remat"] != "none":
        options.append(f"--remat {setting['remat']}")
    options.append(f"--attention {setting['attention']}")
    if setting["scan_layers"]:
        options.append("--scan-layers")
    return " ".join(options)
