"""Write fine-tuned runs with predictions, as `mswitch predict` lays them out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.flows.reports.downstream import write_downstream
from mswitch.models.config import TuningConfig
from mswitch.models.inference.predict import SCHEMA
from mswitch.models.inference.prediction_scores import score_predictions
from mswitch.models.training.run_directory import read_run
from mswitch.pipelines import storage
from mswitch.pipelines.outputs import MARKER, config_hash

LABELS = ("left", "right", "middle")
#: Gives a prediction of language, number of the row, and answer.
Model = Callable[[str, int, str], str]


def right_of_ten(count: int) -> Model:
    """A model that has so many of each ten rows right."""
    return lambda lang, row, answer: answer if row % 10 < count else wrong(answer)


def wrong(answer: str) -> str:
    return LABELS[(LABELS.index(answer) + 1) % len(LABELS)]


def write_pretrained_longer(place: Path, **options: Any) -> tuple[list[Path], list[Path]]:
    """Write three runs of each model, from the steps 100, 200 and 400 of pretraining."""
    dense, sparse = (
        [
            write_tuned(
                place / f"{preset}-{step}", right_of_ten(count), preset, origin=step, **options
            )
            for step, count in zip((100, 200, 400), counts, strict=True)
        ]
        for preset, counts in (("mt5-tiny", (3, 5, 7)), ("mswitch-tiny", (5, 7, 8)))
    )
    return dense, sparse


def compare_tuned_from(
    runs: Sequence[Path],
    place: Path,
    rights: Sequence[int] = (5, 6),
    origins: Sequence[int] = (200,),
    **options: Any,
) -> Path:
    """Write a comparison of runs fine-tuned from these, of whose rows so many of ten are right."""
    sides = []
    for run, right in zip(runs, rights, strict=True):
        config = read_run(run)
        begun = {"preset": config["preset"], "origin_hash": config["config_hash"], **options}
        sides.append(
            [
                write_tuned(place / f"{run.name}-{n}", right_of_ten(right - i), origin=n, **begun)
                for i, n in enumerate(origins)
            ]
        )
    write_downstream(*sides, place / "downstream")
    return place / "downstream"


def write_tuned(
    out: Path,
    model: Model,
    preset: str = "mt5-tiny",
    *,
    rows: Mapping[str, int],
    per_group: int = 1,
    group: str = "{lang}-{number}",
    origin: int | None = 400,
    origin_hash: str = "",
    split: str = "test",
    decodes: Sequence[str] = ("labels",),
    step: int = 160,
    reads: Sequence[int] = (160,),
    task: Mapping[str, Any] | None = None,
    inputs: str = "which way: {row}",
    answer: Callable[[str, int], str] = lambda lang, row: LABELS[row % 3],
    **train: Any,
) -> Path:
    """Write a run that was fine-tuned on a task of three labels.

    Args:
        out: where.
        model: what it predicts.
        preset: its name.
        rows: of each language.
        per_group: rows that belong together.
        group: template of their name.
        origin: the step of pretraining it began with; None for random parameters.
        origin_hash: of the run it began with; by default one for each preset.
        split: what was predicted.
        decodes: the ways of decoding.
        step: the checkpoint that was chosen.
        reads: the steps from which test was read.
        task: what is different of the task.
        inputs: template of inputs.
        answer: what is right of a language and row.
        train: what is different of the training.
    """
    described = {
        "name": "toy",
        "inputs": "{inputs}",
        "targets": "{targets}",
        "labels": list(LABELS),
        "metrics": ["accuracy", "macro_f1"],
        "hash": "0" * 16,
        **(task or {}),
    }
    begun = origin is not None and {
        "path": "../pretrained",
        "preset": preset,
        "config_hash": origin_hash or config_hash("train", {"preset": preset}),
        "examples": None,
        "step": origin,
        "keep_moments": False,
        "steps_counted": 0,
        "origin": None,
    }
    train = {**dataclasses.asdict(TuningConfig(steps=160, eval_every=80, batch_size=8)), **train}
    config = {
        "preset": preset,
        "model": {"experts": 8 if preset.startswith("mswitch") else 0},
        "train": train,
        "examples": {"config_hash": "tasks", "vocabulary_sha256": "v", "path": "../tasks"},
        "languages": {lang: {"train_records": 10 * count} for lang, count in rows.items()},
        "mixture": {"alpha": 0.3},
        "origin": begun or None,
        "eval_steps": [80, 160],
        "parameters": 2_000_000,
    }
    identity = config_hash("train", {**config, "out": str(out)})
    storage.make_directory(out)
    storage.write_json(out / "config.json", {**config, "config_hash": identity})
    (out / MARKER).write_text("{}")
    values = {"80": 40.0, "160": 60.0}
    storage.write_json(
        out / "selected.json",
        {"step": step, "metric": "accuracy", "value": 60.0, "values": values, "tasks": "tasks"},
    )
    table = [
        {
            "id": f"{lang}:{number}",
            "language": lang,
            "group": group.format(lang=lang, number=number // per_group),
            "inputs": inputs.format(row=number),
            "targets": answer(lang, number),
            "answers": [answer(lang, number)],
            "prediction": model(lang, number, answer(lang, number)),
            "score": -0.1 * (number % 7),
        }
        for lang, count in rows.items()
        for number in range(count)
    ]
    place = out / "predictions" / described["name"]
    place.mkdir(parents=True)
    found = pa.Table.from_pylist(table, SCHEMA)
    for decode in decodes:
        settings = {
            "run": identity,
            "tasks": "tasks",
            "dtype": "float32",
            "limit": None,
            "decode": decode,
        }
        path = place / f"{split}-{step}-{decode}.parquet"
        pq.write_table(found, path)
        scores = score_predictions(found, described)
        storage.write_json(
            path.with_suffix(".json"), {**settings, "step": step, "task": described, **scores}
        )
    if split == "test":
        ledger = [{"step": each, "decode": decode} for each in reads for decode in decodes]
        storage.write_json(place / "test_reads.json", {"reads": ledger})
    return out
