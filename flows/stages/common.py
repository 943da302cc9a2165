"""Types of options, checks, and printing of results, for all subcommands."""

import json as json_module
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from mswitch.pipelines.errors import UserError

Json = Annotated[bool, Parameter(negative="", help="Print one JSON object as the last line.")]
BeamOptions = Annotated[
    str, Parameter(show=False, help="Options for Beam itself, after `--`, such as --region=...")
]
Cancel = Annotated[
    bool,
    Parameter(negative="", help="Only cancel the jobs that build this output on Dataflow."),
]


#: Sign before a figure that is a bound.
_BOUNDS = {None: "", "none": "", "lower": "> ", "upper": "< "}


def finish(summary: Mapping[str, Any], json: bool) -> int:
    """Print a stage's summary: one JSON object, or its headline figures in one line."""
    figures = [
        f"{_BOUNDS[summary.get(f'{key}_censored')]}{round(value, 4):,} {key.replace('_', ' ')}"
        + _format_parts(summary.get(f"{key}_by_reason"))
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    state = "already complete" if summary.get("reused") else "done"
    line = f"{summary['out']}: {state}" + (f", {', '.join(figures)}" if figures else "")
    return print_result(summary, line, json)


def print_result(result: Mapping[str, Any], text: str, json: bool) -> int:
    """Print what a command found: one JSON object, or `text` for people."""
    print(json_module.dumps(result, ensure_ascii=False, sort_keys=True) if json else text)
    return 0


def _format_parts(counts: Mapping[str, int] | None) -> str:
    return f" ({', '.join(f'{name} {n:,}' for name, n in counts.items())})" if counts else ""


def use_only_cpu() -> None:
    """Let JAX use only the CPU, in a command that only moves values.

    The host has more memory for a model, and a training may occupy the accelerator's.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")


def check_beam_options(options: Sequence[str]) -> list[str]:
    """Refuse stray words that are not Beam options."""
    for option in options:
        if not option.startswith("--"):
            raise UserError(
                f"unexpected argument {option!r}: give Beam's own options last, after `--`, "
                "as --name=value"
            )
    return list(options)


def end_on_dataflow(out: str, runner: str, options: Sequence[str], json: bool) -> int:
    """Cancel the Dataflow jobs that build an output."""
    from mswitch.pipelines.dataflow_jobs import cancel_jobs
    from mswitch.pipelines.runners import pipeline_options

    if runner != "dataflow":
        raise UserError(f"--cancel: give --runner dataflow too, not {runner}")
    cancelled = cancel_jobs(out, pipeline_options(runner, options))
    text = f"{out}: {', '.join(cancelled) or 'no job runs'}{' cancelled' if cancelled else ''}"
    return print_result({"out": out, "cancelled": cancelled}, text, json)


def split_commas(words: Sequence[str] | None) -> tuple[str, ...] | None:
    """Split words at commas, so that `--languages de,sw` means `--languages de sw`."""
    if words is None:
        return None
    return tuple(part for word in words for part in word.split(",") if part)
