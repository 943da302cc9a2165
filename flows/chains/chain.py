"""Run the whole chain: text, examples, models over seeds, fine-tuning, reports."""

import dataclasses
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.flows.chains import held_out_text
from mswitch.flows.chains.live_losses import show_losses
from mswitch.flows.chains.machine_settings import (
    LANGUAGE_OF,
    Model,
    Setting,
    choose_setting,
    find_setting,
)
from mswitch.flows.chains.plan import Plan, Request, choose_data_setting, settle_plan
from mswitch.flows.devices_found import find_devices
from mswitch.flows.jobs.tied import run_tied
from mswitch.flows.reports import pair
from mswitch.flows.reports.names import describe_model
from mswitch.flows.stages import (
    corpus,
    evaluate,
    examples,
    finetune,
    predict,
    report,
    sample,
    train,
    vocab,
)
from mswitch.flows.stages.disk_needed import check_disk, count_state_bytes
from mswitch.flows.stages.stage import Stage
from mswitch.models.config import pad_vocabulary
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.models.training.metrics import read_metrics
from mswitch.models.training.run_directory import CHECKPOINTS, read_run
from mswitch.pipelines.directory_lock import lock_directory
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.pipelines.progress import in_background, pass_on_news, say
from mswitch.pipelines.supervised.samples.writer import TASK_FILE
from mswitch.pipelines.vocabulary.model import MODEL_FILE

FETCHED = {
    "gflanguages": sample.gflanguages,
    "debian": sample.debian,
    "documentation": sample.documentation,
    "translations": sample.translations,
}


class Chain:
    """Runs stages one after another, and records how long each took."""

    def __init__(self, name: str):
        self.name, self.secs = name, dict[str, float]()

    def run(self, title: str, stage: Stage, **values: Any) -> None:
        """Run a stage here. If the stage computes with JAX, run it as a job that restarts."""
        if stage.accelerator:
            self.time(title, run_tied, [stage.job(**values)], f"mswitch {self.name}")
        else:
            self.time(title, stage.run, **values)

    def run_together(self, title: str, stage: Stage, of_each: Sequence[Mapping[str, Any]]) -> None:
        """Run a stage with several values side by side, as jobs whose progress is not printed."""
        jobs = [stage.job(**values) for values in of_each]
        self.time(title, run_tied, jobs, f"mswitch {self.name}", pass_on_news)

    def time(self, title: str, step: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Print `title`, call `step`, and record its duration."""
        say(self.name, f"{len(self.secs) + 1}. {title}")
        start = time.monotonic()
        result = step(*arguments, **named)
        self.secs[title] = round(time.monotonic() - start, 1)
        return result


def run_chain(name: str, request: Request, out: Path, prepare_only: bool = False) -> dict[str, Any]:
    """Run all unfinished stages, from text to reports, with outputs below `out`.

    With `prepare_only`, train nothing.

    Returns:
        The summary of the first report, with `hours` of training of each model and `stage_secs` of
        each stage; with `prepare_only`, the directory of the examples as `out`.
    """
    with lock_directory(out):
        chain = Chain(name)
        if prepare_only:
            setting = find_setting(request.setting or choose_setting(find_devices()))
            data = prepare(chain, request, setting, out)
            check_text(chain, request, setting, data, out)
            return {"stage": name, "out": data}
        plan = settle_plan(request, out)
        print(plan.summary, file=sys.stderr)
        setting = request.restrict_setting(plan.setting)
        data = prepare(chain, request, setting, out)
        text = check_text(chain, request, setting, data, out)
        runs = [
            (model, seed, out / "runs" / f"{model}-seed-{seed}")
            for seed, model in itertools.product(range(plan.seeds), setting.models)
        ]
        left = [model for model, _, run in runs if not is_evaluated(run, plan.steps)]
        check_room(plan, [setting.models[model] for model in left], data, out)
        took: list[float] = []
        together = len(setting.models) if setting.together and not plan.horizons else 1
        for first in range(0, len(runs), together):
            group = runs[first : first + together]
            started = [run for run in group if not is_evaluated(run[2], plan.steps)]
            for run in group:
                if run not in started:
                    say(name, f"{run[2]} is already complete")
            if started:
                left = estimate_time_left(plan, first, len(runs), took)
                say(name, f"{' and '.join(run.name for *_, run in started)}: {left}")
                start = time.monotonic()
                train_and_evaluate(chain, plan, setting, started, data)
                took += [(time.monotonic() - start) / len(started)] * len(started)
            for *_, run in group:
                keep_last_checkpoint(run)
        runs_of = {model: [run for of, _, run in runs if of == model] for model in setting.models}
        tuned = tune(chain, request, setting, out, runs_of)
        summaries = []
        for folder, (baseline, candidates) in setting.reports.items():
            compared = [run for model in candidates for run in runs_of[model]]
            of = runs_of[baseline], compared, out / folder
            how = {"downstream": tuned, "timed": setting.timed, "text": text, "replace": True}
            summaries.append(chain.time(folder, pair.write_report, *of, **how))
        hours = {model: sum(map(sum_hours, of)) for model, of in runs_of.items()}
        return {**summaries[0], "hours": hours, "stage_secs": chain.secs}


def prepare(chain: Chain, request: Request, setting: Setting, out: Path) -> str:
    """Make examples if the request names no examples; return the examples' directory or URL."""
    if request.examples:
        return request.examples
    made = str(out / "examples")
    if setting.names:
        names = out / "names"
        chain.run("names", sample.names, out=names)
        task_file, model = str(names / TASK_FILE), str(names / MODEL_FILE)
        of_names = {"task": task_file, "vocab": model, "out": made, "config": setting.names}
        chain.run("examples", examples.supervised, **of_names)
        return made
    source, text, vocabulary = (
        choose_data_setting(request, setting),
        request.corpus,
        out / "vocabulary",
    )
    if not text:
        crawl, text = out / "sample", str(out / "corpus")
        chain.run("sample", FETCHED[request.sample], out=crawl)
        inputs = [str(crawl / "wet" / "*.warc.wet.gz"), str(crawl / "warc" / "*.warc.gz")]
        chain.run("corpus", corpus.build, input=inputs, out=text, config=source.corpus)
        if source.decontaminate:
            near = text, out, source.decontaminate
            chain.time("decontamination", held_out_text.decontaminate, *near)
    of_text = {"corpus": text, "out": str(vocabulary), "config": source.vocabulary}
    chain.run("vocabulary", vocab.train, **of_text)
    of_both = {"corpus": text, "vocab": str(vocabulary), "out": made, "config": source.examples}
    chain.run("examples", examples.build, **of_both)
    return made


def train_and_evaluate(
    chain: Chain, plan: Plan, setting: Setting, runs: Sequence[tuple[str, int, Path]], data: str
) -> None:
    """Train and evaluate runs of (model, seed, directory), side by side if there are several."""
    names = " and ".join(run.name for *_, run in runs)
    of_each = [
        {
            "preset": setting.models[model].preset,
            "examples": data,
            "out": run,
            "changes": setting.models[model].changes,
            "config": plan.train_config(seed),
        }
        for model, seed, run in runs
    ]
    if len(runs) > 1:
        size = pad_vocabulary(read_manifest(data, "examples")["vocabulary_size"])
        models = {
            describe_model(vars(setting.models[model].config(size))): run for model, _, run in runs
        }
        with in_background(partial(show_losses, chain.name, models, plan.steps)):
            chain.run_together(f"train {names}", train.train, of_each)
        evaluations = [{"run": run, "examples": data} for *_, run in runs]
        chain.run_together(f"evaluate {names}", evaluate.evaluate, evaluations)
        return
    [values], [(*_, run)] = of_each, runs
    for end in plan.ends(run):
        config = dataclasses.replace(values["config"], steps=end)
        chain.run(f"train {names} to step {end:,}", train.train, **{**values, "config": config})
    chain.run(f"evaluate {names}", evaluate.evaluate, run=run, examples=data)


def check_text(
    chain: Chain, request: Request, setting: Setting, examples: str, out: Path
) -> dict[str, Any]:
    """Measure and show held-out text, unless models train on a list of translated names."""
    if setting.names:
        return {}
    if request.examples:
        measured = held_out_text.read_documents(examples)
    else:
        text = request.corpus or str(out / "corpus")
        measured = chain.time("held-out text", held_out_text.measure, text, out)
    return held_out_text.show(chain.name, measured, request.corpus, out)


def tune(
    chain: Chain, request: Request, setting: Setting, out: Path, runs_of: dict[str, list[Path]]
) -> list[Path]:
    """Fine-tune two models on language identification, and compare the results.

    The models are the baseline and first candidate of the setting's first report, each with its
    first seed: the comparison refuses models of several pretraining seeds.

    Returns:
        The directory of the comparison, or nothing if no run is fine-tuned.
    """
    config = request.finetune(setting)
    if config is None:
        return []
    place = out / "language-of"
    text = request.corpus or str(out / "corpus")
    chain.run("rows", sample.language_of, corpus=text, out=place / "rows")
    tasks = str(place / "examples")
    task_file = str(place / "rows" / TASK_FILE)
    of_rows = {"task": task_file, "vocab": str(out / "vocabulary"), "out": tasks}
    chain.run("task", examples.supervised, config=LANGUAGE_OF, **of_rows)
    baseline, [candidate, *_] = next(iter(setting.reports.values()))
    sides: dict[str, list[str]] = {}
    for side, model in (("baseline", baseline), ("candidate", candidate)):
        run = runs_of[model][0]
        tuned = place / run.name
        if not (tuned / MARKER).exists():
            of_run = {"from_": run, "tasks": tasks, "out": tuned, "config": config}
            chain.run(f"finetune {run.name}", finetune.finetune, **of_run)
        chain.run(f"predict {run.name}", predict.predict, run=tuned, split="test")
        sides[side] = [str(tuned)]
    compared = place / "downstream"
    chain.run("downstream", report.downstream, **sides, out=compared)
    return [compared]


def check_room(plan: Plan, left: Sequence[Model], examples: str, out: Path) -> None:
    """Check the disk's room for all checkpoints of one run, and the last checkpoint of each run."""
    if not left:
        return
    size = pad_vocabulary(read_manifest(examples, "examples")["vocabulary_size"])
    train = plan.train_config(seed=0)
    sizes = {model: count_state_bytes(model.config(size), train) for model in {*left}}
    of_a_run = len(evaluation_steps(train, plan.horizons)) + 1
    need = sum(sizes[model] for model in left) + of_a_run * max(sizes.values())
    check_disk(out, need, "checkpoints of these runs", "--out on a larger disk")


def estimate_time_left(plan: Plan, done: int, total: int, took: Sequence[float]) -> str:
    """Name the next run, and the time left, estimated from finished runs or from the plan."""
    secs = sum(took) / len(took) if took else plan.secs and plan.secs / total
    hours = f", about {secs * (total - done) / 3600:.1f} h left" if secs else ""
    return f"run {done + 1} of {total}{hours}"


def is_evaluated(run: Path, steps: int) -> bool:
    """Return whether a run has this number of steps, and all its planned evaluations."""
    if not (run / MARKER).is_file():
        return False
    described = read_run(run)
    return described["train"]["steps"] == steps and all(
        (run / "eval" / f"{step}.parquet").is_file() for step in described["eval_steps"]
    )


def keep_last_checkpoint(run: Path) -> None:
    """Remove all checkpoints but the last; they are large, and only evaluation needed them."""
    steps = [path for path in (run / CHECKPOINTS).iterdir() if path.name.isdecimal()]
    for path in sorted(steps, key=lambda path: int(path.name))[:-1]:
        shutil.rmtree(path)


def sum_hours(run: Path) -> float:
    """Return the hours of all steps, without compilation and evaluation."""
    return sum(metrics["train/step_secs"] for metrics in read_metrics(run)) / 3600
