"""`mswitch predict`: predict with a run, score its predictions, choose its checkpoint."""

import re
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from mswitch.flows.reports.numbers import plural
from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.config import PredictConfig
from mswitch.pipelines.errors import UserError

app = App(name="predict")
#: Control characters in a model's text, which a terminal could obey.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@stage(
    app,
    "predict",
    reads={"run": "runs", "tasks": "examples", "vocab": "vocabularies"},
    output="run",
    part="predictions",
    accelerator=True,
)
def predict(
    *,
    run: str,
    tasks: str | None = None,
    split: Literal["train", "validation", "test"] = "validation",
    step: int | None = None,
    select: bool = False,
    again: bool = False,
    text: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    input: Path | None = None,
    vocab: str | None = None,
    config: PredictConfig = PredictConfig(),
) -> Summary:
    """Write predictions as Parquet, and metrics per language with intervals as JSON and a table.

    They are in RUN/predictions. Choose the checkpoint on validation, then read test once:

        mswitch predict --run tuned --select
        mswitch predict --run tuned --split test

    Tasks with a closed set of labels choose the label of highest likelihood; other tasks decode
    text. With --text or --input it answers your own inputs, one answer a line, or fills gaps as in
    pretraining:

        mswitch predict --run tuned --text "translate English to German: That is good."
        mswitch predict --run sparse --text "The capital of France is <extra_id_0>."

    Args:
        run: a run directory, fine-tuned or not, or its gs:// or s3:// URL.
        tasks: a directory of supervised examples; by default those the run was trained on.
        split: the examples to predict.
        step: step of the checkpoint; by default the selected step, else the last.
        select: predict validation with every kept checkpoint, and choose the best.
        again: read test with another step than before; the report counts how often.
        text: in place of a split, inputs in the form of the task's template; or texts with gaps
            <extra_id_0>, <extra_id_1> and so on.
        input: a file with inputs or texts as for --text, one a line.
        vocab: the vocabulary to fill gaps, a directory or a SentencePiece model file such as mT5's;
            by default that of --tasks.
    """
    from mswitch.models.inference import best_checkpoint
    from mswitch.models.inference import predict as of_run
    from mswitch.models.inference.infill import SENTINEL, infill
    from mswitch.models.inference.prediction_scores import format_scores

    texts = _read_texts(text or [], input)
    if text is not None or input is not None:
        of_splits = {"--select": select, "--again": again, "--limit": config.limit}
        of_splits["--split"] = split != "validation"
        if ignored := [name for name, given in of_splits.items() if given]:
            raise UserError(f"--text and --input read no split: leave out {', '.join(ignored)}")
        if not texts:
            raise UserError("there is no text to answer: give --text, or an --input with lines")
        if vocab is not None or any(map(SENTINEL.search, texts)):
            summary = infill(run, texts, config, vocab=vocab, tasks=tasks, step=step)
        else:
            summary = of_run.answer(run, tasks, texts, config, step=step)
        lines = (
            _CONTROLS.sub(" ", answer.get("filled", answer.get("prediction")))
            for answer in summary["texts"]
        )
        return summary, "\n".join(lines)
    if vocab is not None:
        raise UserError("--vocab is for gaps in --text: leave it out, or give texts with gaps")
    if again and split != "test":
        raise UserError("--again reads test again: give --split test, or leave it out")
    if select:
        if step is not None or split != "validation":
            raise UserError("--select compares all steps on validation: leave out --step, --split")
        summary = best_checkpoint.select(run, tasks, config)
        head = f"{run}: step {summary['step']:,} is selected\n"
    else:
        summary = of_run.predict(run, tasks, split, config, step=step, again=again)
        reads = (
            f", test read {plural(summary['test_reads'], 'time')}"
            if "test_reads" in summary
            else ""
        )
        head = f"{summary['out']}: step {summary['step']:,}{reads}\n"
    return summary, head + format_scores(summary, list(summary["mean"]))


def _read_texts(texts: list[str], file: Path | None) -> list[str]:
    """Return the values of --text and the lines of --input, all of them UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"--text {text!r} is not UTF-8: convert it with iconv") from error
    if file is None:
        return texts
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            return [*texts, *(line.removesuffix("\n").removesuffix("\r") for line in lines)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input {file} cannot be read: {error}") from error
