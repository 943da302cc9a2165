"""`mswitch examples`: make span-corruption examples, and supervised examples."""

import os
from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.stages.common import BeamOptions, Json, print_result, split_commas
from mswitch.flows.stages.stage import Summary, stage
from mswitch.pipelines.dataflow_prices import Cost
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.runners import RunnerName
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.definition import read_task

Config = Annotated[ExamplesConfig, Parameter(name="*", consume_multiple=True)]

app = App(
    name="examples",
    help="Make span-corruption examples from a corpus, supervised ones from rows or seqio tasks.",
)


@stage(
    app, "examples build", makes="examples", reads={"corpus": "corpora", "vocab": "vocabularies"}
)
def build(
    *beam_options: BeamOptions,
    corpus: str,
    vocab: str,
    out: str,
    config: ExamplesConfig = ExamplesConfig(),
    runner: RunnerName = "local",
    cost: Cost = Cost(),
) -> Summary:
    """Tokenize and segment a corpus into a seqio cache, whose examples also have an index.

    Training segments are stored without masks, which are new in every epoch. Validation examples
    are masked once, so that all models and steps are evaluated on the same.

        mswitch examples build --corpus corpus --vocab vocabulary --out examples

    Args:
        corpus: a corpus directory, or its URL (gs://, s3://).
        vocab: a vocabulary directory or SentencePiece model file, such as mT5's, or its URL. If it
            has no sentinels, T5's 100 are added.
        out: the directory to make, or a URL.
        runner: where the work is done: local, worker processes of this machine; or a Beam runner.
    """
    return build_examples(
        corpus, vocab, out, config, runner=runner, beam_options=beam_options, cost=cost
    )


@app.command
def plan(
    *,
    corpus: str,
    vocab: str,
    config: Config = ExamplesConfig(),
    workers: int = 1,
    prices: str = "",
    json: Json = False,
) -> int:
    """Make one shard, and estimate from it what `examples build` needs, as `corpus plan` does.

        mswitch examples plan --corpus gs://bucket/corpus --vocab vocabulary --workers 100

    Args:
        corpus: as for `examples build`.
        vocab: as for `examples build`.
        workers: worker processes at a time: on Dataflow one for each vCPU.
        prices: as for `corpus plan`.
    """
    from mswitch.pipelines.corpus.plan import format_plan
    from mswitch.pipelines.examples.plan import plan_examples

    planned = plan_examples(corpus, vocab, config, workers=workers, prices=prices)
    return print_result(planned, format_plan(planned), json)


@stage(app, "examples supervised", makes="examples", reads={"vocab": "vocabularies"})
def supervised(
    *beam_options: BeamOptions,
    task: str,
    vocab: str,
    out: str,
    config: SupervisedConfig = SupervisedConfig(),
    runner: RunnerName = "local",
) -> Summary:
    """Make examples of a task from your own rows: inputs and the right answers.

    Rows come from JSON Lines, TSV, CSV (plain, gzip, zstd) or Parquet files. A TOML file describes
    them:

        name = "reviews"
        files = { train = "train.jsonl", validation = "dev.tsv", test = "test.parquet" }
        inputs = "sentiment: {title} {text}"
        targets = "{label}"
        labels = { 0 = "negative", 1 = "positive" }
        language = "{lang}"
        group = "{product_id}"
        metrics = ["accuracy", "macro_f1"]

    `files = "reviews.jsonl"` and `split = "hash"` split one file: 80 % train, 10 % validation, 10 %
    test, with all rows of a group in one split. `labels` is the closed set of answers; leave it out
    for free text. `language` is a field or a code. `group` names rows of a common origin, by
    default rows with the same inputs; splits that share a group are refused. For TSV and CSV
    without a header, give `fields = ["text", "label"]`.

        mswitch examples supervised --task reviews.toml --vocab vocabulary --out reviews

    Training and seqio read the directory like one of `mswitch examples build`.

    Args:
        task: the task's TOML file; paths in it are relative to its folder.
        vocab: the vocabulary of the model to fine-tune: a directory or a SentencePiece model file.
        out: the directory to make, or a URL.
        runner: where the work is done: local, worker processes of this machine; or a Beam runner.
    """
    from mswitch.tasks.metrics.registry import TEXT_METRICS, make_metric

    definition = read_task(task)
    for metric in definition.metrics:
        try:
            made = make_metric(metric, list((definition.labels or {}).values()))
            if definition.labels and metric in TEXT_METRICS:
                raise UserError(
                    f"metric {metric} is for free text, but the task has labels: leave one out"
                )
            if not definition.answers:
                # This raises an error for wsc_accuracy, which needs two answers per row.
                made([["1"]], ["1"])
        except UserError as error:
            raise UserError(f"{task}: {error}") from error
    return build_supervised(task, vocab, out, config, runner=runner, beam_options=beam_options)


@stage(app, "examples from-task", makes="examples", reads={"vocab": "vocabularies"})
def from_task(
    *,
    task: str,
    vocab: str,
    lengths: str,
    out: str,
    module: str = "",
    language: str | None = None,
    epochs: int | None = None,
    metrics: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    labels: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
) -> Summary:
    """Make examples of a seqio task or mixture, with its own preprocessing.

    The directory is read like one of `mswitch examples supervised`, without seqio. For a mixture,
    each task gets a directory in --out, and multitask.toml beside them has the rates, for
    `mswitch finetune --tasks`.

        mswitch examples from-task --task qa.de --module my.tasks --vocab V --lengths 64,8 --out qa

    A task that draws randomly after its cache has other examples in every epoch. It is refused
    unless --epochs gives the number of epochs to store. The command needs seqio, and the packages
    of `mswitch train`.

    Args:
        task: name of the task or mixture in seqio.
        vocab: the task's vocabulary: a directory or a SentencePiece model file.
        lengths: lengths of inputs and targets in tokens, such as 512,128; longer ones are cut.
        out: the directory to make.
        module: Python module, installed or in this directory, whose import registers the task.
        language: language code, if the task's name does not end with one, such as `.de`.
        epochs: number of epochs of the training split to store.
        metrics: names of metrics to score predictions; by default exact_match.
        labels: the closed set of targets, from which predictions are chosen. Examples with another
            target, such as `<unk>` of an unpublished test, are left out and counted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow warns of a missing GPU
    from mswitch.tasks.from_task import FromTaskConfig, build_from_task
    from mswitch.tasks.seqio.registered import Registered

    sizes = [int(part) for part in lengths.split(",") if part.isdecimal() and int(part) > 1]
    if len(sizes) != 2 or len(lengths.split(",")) != 2:
        raise UserError(f"--lengths {lengths}: give lengths of inputs and targets, as 512,128")
    scored = ("exact_match",) if metrics is None else split_commas(metrics) or ()
    closed = tuple(split_commas(labels or []) or ())
    config = FromTaskConfig(Lengths(*sizes), language, epochs, scored, closed)
    return build_from_task(Registered(task, module, os.getcwd()), vocab, out, config)
