"""The evidence: a sparse model and its dense twin over seeds, and one report."""

import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from mswitch.flows.devices import find_devices
from mswitch.flows.evidence.plan import Plan, Request, data_config, settled
from mswitch.flows.evidence.settings import Setting, find_setting, setting_for
from mswitch.flows.operators.parameters import options_of
from mswitch.flows.operators.preflight import check_disk, state_bytes
from mswitch.flows.prefect_flows import demo
from mswitch.flows.supervision import run_with_restarts
from mswitch.models.config import padded_vocabulary
from mswitch.models.training.metrics import read_metrics
from mswitch.models.training.run_directory import CHECKPOINTS, log_spaced_steps, read_run
from mswitch.pipelines.outputs import MARKER, lock_directory, read_manifest
from mswitch.pipelines.progress import say
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.samples.names import write_names
from mswitch.pipelines.supervised.samples.writer import TASK_FILE
from mswitch.pipelines.vocabulary.model import MODEL_FILE


@task(task_run_name="names")
def build_names(config: SupervisedConfig, names: Path, out: Path) -> dict[str, Any]:
    """Fetch names of things, and make examples of them."""
    write_names(names)
    return build_supervised(names / TASK_FILE, names / MODEL_FILE, out, config)


@task(task_run_name="train {run.name}")
def train(name: str, seed: int, plan: Plan, examples: str, run: Path) -> None:
    """Pretrain one model in its own process."""
    model, config = find_setting(plan.setting).models[name], plan.train_config(name, seed)
    options = [word for one in (*model.changes, config) for word in options_of(one)]
    where = [f"--preset={model.preset}", f"--examples={examples}", f"--out={run}"]
    run_with_restarts(["train", *where, *options])


@task(task_run_name="{out.name}")
def write_report(baselines: list[Path], candidates: list[Path], out: Path) -> dict[str, Any]:
    """Compare models over all seeds."""
    from mswitch.flows.reports import pair

    return pair.write_report(baselines, candidates, out, timed=False, replace=True)


@flow(name="mswitch-evidence", flow_run_name="{out.name}")
def evidence(request: Request, out: Path, prepare_only: bool = False) -> dict[str, Any]:
    """Do all that is left to do under `out`.

    Returns:
        The summary of the first report, and the `hours` that each model was trained; with
        `prepare_only` where the examples are.
    """
    with lock_directory(out):
        if prepare_only:
            name = request.setting or setting_for(find_devices())
            return {"stage": "evidence", "out": prepare(request, find_setting(name), out)}
        plan = settled(request, out)
        setting = find_setting(plan.setting)
        examples = prepare(request, setting, out)
        runs = [
            (name, seed, out / "runs" / f"{name}-seed-{seed}")
            for seed, name in itertools.product(range(plan.seeds), setting.models)
        ]
        if not (out / "runs").exists():
            check_room(plan, setting, examples, out)
        took: list[float] = []
        for number, (name, seed, run) in enumerate(runs):
            if not is_evaluated(run, plan.steps):
                say("evidence", f"{run.name}: {time_left(plan, number, len(runs), took)}")
                start = time.monotonic()
                train(name, seed, plan, examples, run)
                demo.evaluate(run, examples)
                took.append(time.monotonic() - start)
            keep_last_checkpoint(run)
        runs_of = {name: [run for of, _, run in runs if of == name] for name in setting.models}
        summaries = []
        for folder, (baseline, candidates) in setting.reports.items():
            compared = [run for name in candidates for run in runs_of[name]]
            summaries.append(write_report(runs_of[baseline], compared, out / folder))
        create_markdown_artifact(key="evidence-verdict", markdown=summaries[0]["verdict"])
        hours = {name: sum(map(trained_hours, of)) for name, of in runs_of.items()}
        return {**summaries[0], "hours": hours}


def prepare(request: Request, setting: Setting, out: Path) -> str:
    """Make the examples, unless they were given; return where they are."""
    if request.examples:
        return request.examples
    if setting.names:
        build_names(setting.names, out / "names", out / "examples")
        return str(out / "examples")
    config, corpus = data_config(request, setting), request.corpus
    if not corpus:
        corpus = out / "corpus"
        demo.fetch_sample(config, out / "sample")
        demo.build_corpus(config, out / "sample", corpus)
    demo.train_vocabulary(config, corpus, out / "vocabulary")
    demo.build_examples(config, corpus, out / "vocabulary", out / "examples")
    return str(out / "examples")


def check_room(plan: Plan, setting: Setting, examples: str, out: Path) -> None:
    """See that checkpoints fit the disk: those of the run that trains, one of each before it."""
    size = padded_vocabulary(read_manifest(examples, "examples")["vocabulary_size"])
    sizes = [state_bytes(model.config(size), setting.train) for model in setting.models.values()]
    of_a_run = len(log_spaced_steps(plan.steps, setting.train.evaluations)) + 1
    need = plan.seeds * sum(sizes) + of_a_run * max(sizes)
    check_disk(out, need, "checkpoints of these runs", "--out on a larger disk")


def time_left(plan: Plan, done: int, total: int, took: Sequence[float]) -> str:
    """Which run is next, and how long all may take: as planned, then as the last ones took."""
    secs = sum(took) / len(took) if took else plan.secs and plan.secs / total
    hours = f", about {secs * (total - done) / 3600:.1f} h left" if secs else ""
    return f"run {done + 1} of {total}{hours}"


def is_evaluated(run: Path, steps: int) -> bool:
    """Whether a run has so many steps, with the evaluations of all that are planned."""
    if not (run / MARKER).is_file():
        return False
    described = read_run(run)
    return described["train"]["steps"] == steps and all(
        (run / "eval" / f"{step}.parquet").is_file() for step in described["eval_steps"]
    )


def keep_last_checkpoint(run: Path) -> None:
    """Remove the checkpoints that were there to be evaluated: those of sparse models are large."""
    steps = [path for path in (run / CHECKPOINTS).iterdir() if path.name.isdecimal()]
    for path in sorted(steps, key=lambda path: int(path.name))[:-1]:
        shutil.rmtree(path)


def trained_hours(run: Path) -> float:
    """Hours of all steps, without compiling and evaluating."""
    return sum(metrics["train/step_secs"] for metrics in read_metrics(run)) / 3600
