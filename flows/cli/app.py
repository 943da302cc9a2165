"""The `mswitch` command: its subcommands, one line of help each.

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
    "demo": "The whole chain on a small real sample, from crawl to report.",
    "evidence": "The speed-up over its dense twin that this machine can show in a given time.",
    "sample": "Fetch real input: excerpts in 100 languages, or Debian's documentation.",
    "corpus": "Build an mC4-style corpus from WET and WARC files; show its statistics.",
    "vocab": "Train a SentencePiece vocabulary, or see how one suits each language.",
    "examples": "Turn a corpus, or rows of a task, into examples (a seqio cache).",
    "mixture": "Show how often each language is trained on, and how often repeated.",
    "train": "Pretrain a preset on an examples directory.",
    "finetune": "Train on with the parameters of a run, on tasks or other text.",
    "evaluate": "Evaluate a run's checkpoints per document and language.",
    "predict": "Predict tasks with a run, score each language, choose the checkpoint.",
    "plan": "Compile a preset's training step for a TPU slice or GPUs, without having them.",
    "distill": "Train a dense model on text and on what a sparse run predicts.",
    "upcycle": "Make a Switch Transformer of a trained dense model.",
    "import-hf": "Make a run of a Hugging Face mT5, T5 or Switch Transformer.",
    "export-hf": "Write a run's checkpoint for Hugging Face's transformers.",
    "report": "Compare two runs language by language: report.html, report.json, CSV.",
    "serve": "Show the reports and pages of a storage in a browser.",
    "jobs": "Run commands as jobs that outlive their terminal, here or on a cluster.",
    "deploy": "Give a Prefect server the flows of corpora, examples and pretraining.",
    "doctor": "Say what is installed, what can be used here, and what is missing.",
}

#: Where the subcommands are that are not stages.
ROOMS = {
    **dict.fromkeys(("demo", "evidence"), "chains"),
    **dict.fromkeys(("mixture", "plan", "serve", "jobs", "deploy", "doctor"), "cli.commands"),
}


def build_app(asked: str | None = None) -> App:
    """Assemble the command; no subcommand is imported yet.

    Args:
        asked: the subcommand that is going to run: its help is what it says itself, at length.
    """
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
    """Convert as cyclopts does, which would round a fraction where a whole number is wanted.

    Raises:
        ValueError: there is one.
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
        return True  # no number at all, which cyclopts says


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code (2 for a command line that is wrong)."""
    if argv and not argv[0].startswith("-") and argv[0] not in SUBCOMMANDS:
        near = difflib.get_close_matches(argv[0], SUBCOMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(SUBCOMMANDS)}"
        raise UserError(f"unknown command {argv[0]!r}: {hint}")
    quieten_beam()
    try:
        command, bound, _ = build_app(argv[0] if argv else None).parse_args(list(argv))
    except CycloptsError as error:
        if isinstance(error, ValidationError) and (argument := error.argument):
            # Where Pydantic is imported, cyclopts lets it check bounds before our classes do.
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
    """Leave out what Beam prints beside the exceptions it raises, and its advice at import."""
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
    for name in ("apache_beam.runners.common", "apache_beam.runners.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
