"""`mswitch examples`: span-corruption examples and supervised ones."""

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
    help="Turn a corpus into span-corruption examples; rows or seqio's tasks into supervised ones.",
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
        runner: where the work is done: local is worker processes of this machine; the others are
            Beam's.
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
    """Estimate what `examples build` takes, from one shard that is made; as `corpus plan` does.

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
    """Make examples of rows of your own: what a model reads, and what it shall answer.

    Rows come from JSON Lines, TSV, CSV (plain, gzip, zstd) or Parquet files. A TOML file says what
    they mean:

        name = "reviews"
        files = { train = "train.jsonl", validation = "dev.tsv", test = "test.parquet" }
        inputs = "sentiment: {title} {text}"
        targets = "{label}"
        labels = { 0 = "negative", 1 = "positive" }
        language = "{lang}"
        group = "{product_id}"
        metrics = ["accuracy", "macro_f1"]

    One file is split by `files = "reviews.jsonl"` and `split = "hash"`: 80 % train, 10 %
    validation, 10 % test, all rows of a group in one of them. `labels` is the closed set of
    answers; leave it out for free text. `language` is a field or a code. `group` says which rows
    have a common origin, by default those with the same inputs: splits that share one are refused.
    TSV and CSV without a header take `fields = ["text", "label"]`.

        mswitch examples supervised --task reviews.toml --vocab vocabulary --out reviews

    The directory is read like one of `mswitch examples build`: by training, and by seqio.

    Args:
        beam_options: options for Beam itself, after `--`.
        task: the task's TOML file; paths in it are relative to its folder.
        vocab: the vocabulary of the model that is to be fine-tuned: a directory or a SentencePiece
            model file.
        out: the directory to make, or a URL.
        runner: where the work is done: local is worker processes of this machine; the others are
            Beam's.
    """
    from mswitch.tasks.metrics.registry import TEXT_METRICS, make_metric

    definition = read_task(task)
    for metric in definition.metrics:
        try:
            found = make_metric(metric, list((definition.labels or {}).values()))
            if definition.labels and metric in TEXT_METRICS:
                raise UserError(
                    f"metric {metric} is of free text, and the task has labels: leave one out"
                )
            if not definition.answers:
                found([["1"]], ["1"])  # wsc_accuracy needs two answers
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
    """Make examples of a task or mixture that is registered in seqio, by its own preprocessing.

    The directory is read like one of `mswitch examples supervised`, without seqio. Of a mixture,
    each task gets a directory in --out, and multitask.toml beside them has the rates, for
    `mswitch finetune --tasks`.

        mswitch examples from-task --task qa.de --module my.tasks --vocab V --lengths 64,8 --out qa

    A task that draws randomly after its cache, anew in every epoch, is refused unless --epochs
    says how many draws are to be kept. Needs what `mswitch train` needs, and seqio.

    Args:
        task: name of the task or mixture in seqio.
        vocab: the task's vocabulary: a directory or a SentencePiece model file.
        lengths: lengths of inputs and targets in tokens, such as 512,128; longer ones are cut.
        out: the directory to make.
        module: module that registers the task when it is imported, from this directory or
            installed.
        language: language code, for a task whose name does not end with one, such as `.de`.
        epochs: how many draws of the training split are kept.
        metrics: names of metrics, by which predictions are scored; by default exact_match.
        labels: the closed set of targets, from which predictions are chosen; examples with another
            target, such as `<unk>` of an unpublished test, are left out and counted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it says that there is no GPU
    from mswitch.tasks.from_task import FromTaskConfig, build_from_task
    from mswitch.tasks.seqio.registered import Registered

    found = [int(part) for part in lengths.split(",") if part.isdecimal() and int(part) > 1]
    if len(found) != 2 or len(lengths.split(",")) != 2:
        raise UserError(f"--lengths {lengths}: give those of inputs and targets, such as 512,128")
    scored = ("exact_match",) if metrics is None else split_commas(metrics) or ()
    closed = tuple(split_commas(labels or []) or ())
    config = FromTaskConfig(Lengths(*found), language, epochs, scored, closed)
    return build_from_task(Registered(task, module, os.getcwd()), vocab, out, config)
