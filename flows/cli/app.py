"""The `mswitch` command: its subcommands, each with one line of help.

Only the subcommand that is called gets imported: `mswitch --help` takes a fraction of a second,
and a single stage does not wait for Prefect.
"""

import difflib
import importlib.metadata
import logging
import sys
from collections.abc import Sequence
from typing import Any, get_args

from cyclopts import App, CycloptsError, Parameter, Token, ValidationError, convert

from mswitch.pipelines.config_checks import check_value
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import USER_ERROR

SUBCOMMANDS = {
    "demo": "Run the whole chain on a small real sample, from crawl to report.",
    "evidence": "Measure the speed-up over a dense twin that this machine can show in some hours.",
    "sample": "Get real text in 100 languages, or rows of a task.",
    "corpus": "Build an mC4-style corpus from WET and WARC files; show its statistics.",
    "vocab": "Train a SentencePiece vocabulary, or see how one suits each language.",
    "examples": "Turn a corpus, or rows of a task, into examples (a seqio cache).",
    "mixture": "Show the sampling rate of each language, and how often its text is repeated.",
    "train": "Pretrain a model on an examples directory.",
    "finetune": "Train a run further, on tasks or other text.",
    "evaluate": "Measure the loss of a run's checkpoints per document and language.",
    "predict": "Predict tasks with a run, score each language, choose the checkpoint.",
    "plan": "Compile a model's training step for a TPU slice or GPUs, without having them.",
    "distill": "Train a dense model on text and on a sparse run's predictions.",
    "upcycle": "Make a Switch Transformer from a trained dense model.",
    "import-hf": "Make a run from a Hugging Face mT5, T5 or Switch Transformer.",
    "export-hf": "Write a run's checkpoint for Hugging Face's transformers.",
    "report": "Compare runs language by language: report.html, report.json, CSV.",
    "serve": "Show reports and pages in a browser.",
    "jobs": "Run commands as jobs that outlive their terminal, here or on a cluster.",
    "deploy": "Put mswitch's flows on a Prefect server.",
    "doctor": "Say what is installed, what can be used here, and what is missing.",
}

#: Package of each subcommand that is not a stage. Package `stages` has the other subcommands.
ROOMS = {
    **dict.fromkeys(("demo", "evidence"), "chains"),
    **dict.fromkeys(("mixture", "plan", "serve", "jobs", "deploy", "doctor"), "cli.commands"),
}


def build_app(asked: str | None = None) -> App:
    """Build the command-line program, with full help for the subcommand `asked` only."""
    app = App(
        name="mswitch",
        help="From a web crawl in 101 languages to a per-language speed-up report.\n\n"
        "Start with `mswitch demo`. Every stage is a subcommand: sample, corpus build, "
        "vocab train, examples build, train, evaluate, report. A finished stage is not "
        "repeated; a killed one continues when the same command is given again.",
        version=importlib.metadata.version("mswitch"),
        print_error=False,
        result_action="return_value",
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(converter=_convert),
    )
    for name, summary in SUBCOMMANDS.items():
        room = ROOMS.get(name, "stages")
        path = f"mswitch.flows.{room}.{name.replace('-', '_')}:app"
        app.command(path, name=name, help=None if name == asked else summary)
    return app


def _convert(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert as cyclopts does, but refuse a fraction for an integer; cyclopts would round it.

    Raises:
        ValueError: a token is such a fraction.
    """
    if int in (kind, *get_args(kind)):
        for token in tokens:
            if "." in token.value and not _is_whole(token.value):
                raise ValueError(f'"{token.value}" is not a whole number')
    return convert(kind, tokens)


def _is_whole(number: str) -> bool:
    try:
        return float(number).is_integer()
    except ValueError:
        return True  # cyclopts reports that this is not a number


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code (2 for a wrong command line)."""
    if argv and not argv[0].startswith("-") and argv[0] not in SUBCOMMANDS:
        near = difflib.get_close_matches(argv[0], SUBCOMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(SUBCOMMANDS)}"
        raise UserError(f"unknown command {argv[0]!r}: {hint}")
    quieten_beam()
    try:
        command, bound, _ = build_app(argv[0] if argv else None).parse_args(list(argv))
    except CycloptsError as error:
        if isinstance(error, ValidationError) and (argument := error.argument):
            # If Pydantic is imported, cyclopts checks bounds with it before our classes check them.
            check_value(argument.name, argument.value, argument.field_info.annotation)
        print(f"mswitch: {str(error).strip()}", file=sys.stderr)
        words = " ".join(["mswitch", *(error.command_chain or ())])
        print(f"mswitch: see `{words} --help`", file=sys.stderr)
        return USER_ERROR
    for name, value in bound.arguments.items():
        option = f"--{name.replace('_', '-')}"
        check_value(option, value, bound.signature.parameters[name].annotation)
    return int(command(*bound.args, **bound.kwargs) or 0)


def quieten_beam() -> None:
    """Hide Beam's log of exceptions that Beam also raises, and its advice at import."""
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
    for name in ("apache_beam.runners.common", "apache_beam.runners.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
