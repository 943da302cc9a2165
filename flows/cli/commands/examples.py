"""`mswitch examples`: span-corruption examples."""

from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.commands.common import (
    BeamOptions,
    Cancel,
    Json,
    cancel_on_dataflow,
    check_beam_options,
    finish,
)
from pipelines.examples.build import ExamplesConfig, build_examples
from pipelines.runners import RunnerName

app = App(name="examples", help="Turn a corpus into span-corruption examples.")


@app.command
def build(
    *beam_options: BeamOptions,
    corpus: str,
    vocab: str,
    out: str,
    config: Annotated[ExamplesConfig, Parameter(name="*")] = ExamplesConfig(),  # noqa: B008
    runner: RunnerName = "local",
    cancel: Cancel = False,
    json: Json = False,
) -> int:
    """Tokenize and segment a corpus into a seqio cache that is also addressable by index.

    Training segments are stored whole and get fresh masks in every epoch; validation examples
    are corrupted once, so that every model and step sees the same.

        mswitch examples build --corpus corpus --vocab vocabulary --out examples

    Args:
        beam_options: options for Beam itself, after `--`.
        corpus: a corpus directory, or its URL (gs://, s3://).
        vocab: a vocabulary directory, or a SentencePiece model file, such as mT5's own
            (URLs too); one without sentinels gets the 100 of T5.
        out: the directory to make, or a URL.
        runner: where the Beam pipelines run.
    """
    options = check_beam_options(beam_options)
    if cancel:
        return cancel_on_dataflow(out, runner, options, json)
    summary = build_examples(corpus, vocab, out, config, runner=runner, beam_options=options)
    return finish(summary, json)
