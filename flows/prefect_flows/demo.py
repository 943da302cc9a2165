"""The demo: one flow from a small real crawl to a per-language speed-up report."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mswitch.flows.demo_config import DemoConfig, claim_directory
from mswitch.flows.operators.parameters import options_of
from mswitch.flows.supervision import run_with_restarts
from mswitch.models.config import TuningConfig
from mswitch.pipelines.outputs import MARKER, lock_directory
from mswitch.pipelines.progress import say


@task(task_run_name="sample")
def fetch_sample(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Fetch real text as a small crawl."""
    from mswitch.pipelines.samples import debian, gflanguages

    writers = {"gflanguages": gflanguages.write_sample, "debian": debian.write_sample}
    return writers[config.sample](out)


@task(task_run_name="corpus")
def build_corpus(config: DemoConfig, sample: Path, out: Path) -> dict[str, Any]:
    """Turn the crawl into Parquet per language."""
    from mswitch.pipelines.corpus import build

    inputs = [str(sample / "wet" / "*.warc.wet.gz"), str(sample / "warc" / "*.warc.gz")]
    return build.build_corpus(inputs, out, config.corpus)


@task(task_run_name="vocabulary")
def train_vocabulary(config: DemoConfig, corpus: str | Path, out: Path) -> dict[str, Any]:
    """Train the SentencePiece model."""
    from mswitch.pipelines.vocabulary import train

    return train.train_vocabulary(corpus, out, config.vocabulary)


@task(task_run_name="examples")
def build_examples(
    config: DemoConfig, corpus: str | Path, vocabulary: Path, out: Path
) -> dict[str, Any]:
    """Write the seqio cache."""
    from mswitch.pipelines.examples import build

    return build.build_examples(corpus, vocabulary, out, config.examples)


def train_once(argv: Sequence[str], out: Path) -> None:
    """Run a training, unless it is finished: to find that out by itself takes it seconds.

    Its settings are the demo's, which have been compared.
    """
    if (out / MARKER).exists():
        say("demo", f"{out} is already complete")
    else:
        run_with_restarts(argv)


@task(task_run_name="train {preset}")
def train(config: DemoConfig, preset: str, examples: Path, out: Path) -> dict[str, Any]:
    """Pretrain one model in its own process."""
    options = ["--preset", preset, "--examples", str(examples), "--out", str(out)]
    train_once(["train", *options, *config.train.as_options()], out)
    return {"stage": "train", "out": str(out)}


@task(task_run_name="evaluate {run.name}")
def evaluate(run: Path, examples: str | Path) -> dict[str, Any]:
    """Evaluate one model's checkpoints in its own process."""
    run_with_restarts(["evaluate", "--run", str(run), "--examples", str(examples)])
    return {"stage": "evaluate", "out": str(run)}


@task(task_run_name="task")
def build_task(config: DemoConfig, corpus: Path, vocabulary: Path, out: Path) -> dict[str, Any]:
    """Make a supervised task of the corpus: which language is this?"""
    from mswitch.pipelines.supervised import build
    from mswitch.pipelines.supervised.samples.language_of import write_language_of

    rows = out / "rows"
    write_language_of(corpus, rows)
    return build.build_supervised(rows / "task.toml", vocabulary, out / "examples", config.tasks)


@task(task_run_name="finetune {run.name}")
def finetune(config: TuningConfig, run: Path, out: Path) -> dict[str, Any]:
    """Fine-tune one model on the task and predict its test split, in separate processes."""
    tuned = out / run.name
    options = ["--from", str(run), "--tasks", str(out / "examples"), "--out", str(tuned)]
    train_once(["finetune", *options, *options_of(config)], tuned)
    run_with_restarts(["predict", "--run", str(tuned), "--split", "test"])
    return {"stage": "finetune", "out": str(tuned)}


@task(task_run_name="downstream")
def compare_tuned(baseline: Path, candidate: Path, out: Path) -> dict[str, Any]:
    """Compare the fine-tuned models language by language."""
    from mswitch.flows.reports import downstream

    return downstream.write_downstream([baseline], [candidate], out)


@task(task_run_name="report")
def write_report(
    baseline: Path, candidate: Path, out: Path, downstream: Sequence[Path]
) -> dict[str, Any]:
    """Compare the two models language by language."""
    from mswitch.flows.reports import pair

    return pair.write_report(baseline, candidate, out, downstream=downstream)


@flow(name="mswitch-demo", flow_run_name="{out.name}")
def demo(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Run the whole chain under `out`; finished stages are found and not repeated.

    Returns:
        The report's summary, with the seconds each stage took.
    """
    with lock_directory(out):
        claim_directory(config, out)
        stages = Stages()
        sample = out / "sample"
        corpus = out / "corpus"
        vocabulary = out / "vocabulary"
        examples = out / "examples"
        baseline, candidate = out / config.baseline, out / config.candidate

        stages.time("sample", fetch_sample, config, sample)
        stages.time("corpus", build_corpus, config, sample, corpus)
        stages.time("vocabulary", train_vocabulary, config, corpus, vocabulary)
        stages.time("examples", build_examples, config, corpus, vocabulary, examples)
        for run in (baseline, candidate):
            stages.time(f"train {run.name}", train, config, run.name, examples, run)
        for run in (baseline, candidate):
            stages.time(f"evaluate {run.name}", evaluate, run, examples)
        downstream = []
        if config.finetune is not None:
            place = out / "language-of"
            stages.time("task", build_task, config, corpus, vocabulary, place)
            for run in (baseline, candidate):
                stages.time(f"finetune {run.name}", finetune, config.finetune, run, place)
            tuned = place / config.baseline, place / config.candidate
            downstream = [place / "downstream"]
            stages.time("downstream", compare_tuned, *tuned, *downstream)
        pair = baseline, candidate
        summary = stages.time("report", write_report, *pair, out / "report", downstream)
        create_table_artifact(key="demo-stages", table=stages.rows())
        create_markdown_artifact(key="demo-verdict", markdown=summary["verdict"])
        say(
            "demo",
            "experts gain on text that is all facts: `mswitch evidence --setting names --steps "
            "2400` shows it in half an hour",
        )
        return {**summary, "stage_secs": stages.secs}


class Stages:
    """Runs the steps of a flow one after another and keeps their wall-clock times."""

    def __init__(self) -> None:
        self.secs: dict[str, float] = {}

    def time(self, name: str, step: Any, *arguments: Any) -> dict[str, Any]:
        """Run one step, announce it, and note how long it took."""
        say("demo", f"{len(self.secs) + 1}. {name}")
        start = time.monotonic()
        summary = step(*arguments)
        self.secs[name] = round(time.monotonic() - start, 1)
        return summary

    def rows(self) -> list[dict[str, Any]]:
        """The times as rows of a table."""
        return [{"stage": name, "seconds": secs} for name, secs in self.secs.items()]
