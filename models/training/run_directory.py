"""Name a run directory's files, check that a run may use it, and mark it finished."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.models.training.run_plan import FREE, RunPlan, without_free
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import (
    MARKER,
    canonical_json,
    read_json_object,
    write_atomically,
)
from mswitch.pipelines.progress import say

if TYPE_CHECKING:  # this import loads SentencePiece, which readers of a run seldom need
    from mswitch.pipelines.vocabulary.model import VocabularyModel

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
#: Names in a checkpoint; METADATA marks the checkpoint as complete.
METADATA = "_CHECKPOINT_METADATA"
PARAMETERS = "parameters"
OPTIMIZER = "optimizer"
PREDICTIONS = "predictions"
SELECTED = "selected.json"
TEST_READS = "test_reads.json"

BUILD_EXAMPLES = "build examples with the vocabulary of the run (`mswitch examples build --vocab`)"
Config = TypeVar("Config", ModelConfig, TrainConfig)


class Claim(NamedTuple):
    """State of a run directory before training.

    Attributes:
        marker: content of the completion marker; None if steps are left.
        horizons: as in `RunPlan`.
        extends: whether the run had another last step until now.
    """

    marker: dict[str, Any] | None = None
    horizons: Sequence[int] = ()
    extends: bool = False


def claim_run(out: Path, plan: RunPlan) -> Claim:
    """Check that `out` is new, holds this run, or holds a run that this run continues.

    No step depends on a later step, so a run can continue with more steps than planned. There are
    two exceptions: rates of languages that depend on the number of steps (`max_epochs`), and a
    learning rate that has begun to decay. A run can also continue with fewer steps, if it has not
    trained further and has kept the checkpoints of the shorter run.
    """
    if not out.exists():
        return Claim()
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose another --out")
    if not any(out.iterdir()):
        return Claim()
    if not (out / CONFIG).is_file():
        raise UserError(f"{out} holds files that are not a training run: choose a new --out")
    before = read_run(out)
    after = {"origin": None, "teacher": None, **json.loads(canonical_json(plan.identity))}
    steps = planned = plan.train.steps
    horizons: tuple[int, ...] = ()
    if isinstance(before["train"], dict):
        planned, horizons = before["train"].get("steps", steps), _list_horizons(before, steps)
        before["train"] = without_free(before["train"]) | {"steps": steps}
    changed = []
    for part, wanted in after.items():
        stored = before.get(part)
        if not isinstance(wanted, dict) or not isinstance(stored, dict):
            changed += [part] if stored != wanted else []
            continue
        # Paths of a run's inputs are not settings, so they may change.
        keys = [*wanted, *sorted(stored.keys() - wanted.keys() - {"path", "paths"})]
        changed += [f"{part}.{key}" for key in keys if stored.get(key) != wanted.get(key)]
    if changed:
        raise UserError(
            f"{out} holds a run with other settings ({', '.join(changed)} changed): "
            "choose another --out, or give the settings it began with"
        )
    if steps == planned:
        return Claim(read_marker(out), horizons)
    if not can_end_at(out, steps):
        if plan.train.decay and _find_last_step(out, planned) > planned - plan.train.decay:
            raise UserError(
                f"{out} is a run of {planned:,} steps whose learning rate has begun to fall to "
                f"zero (--decay {plan.train.decay}): give --steps {planned}, or choose another "
                "--out"
            )
        raise UserError(
            f"{out} is a run of {planned:,} steps: give --steps {planned}, or more to extend it, "
            "or choose another --out"
        )
    rates, others = (_read_rates(languages) for languages in (before["languages"], plan.languages))
    if rates != others:
        raise UserError(
            f"{out} is a run of {planned:,} steps, on which the rates of its languages depend "
            "(max_epochs): other steps need another --out"
        )
    return Claim(None, horizons, extends=True)


def can_end_at(out: Path, steps: int) -> bool:
    """Return whether a run may end at a step.

    It may if no trained step would have been different, and the same checkpoints would be kept.
    """
    before = read_run(out)
    train, planned_end = parse_train_config(before), before["train"]["steps"]
    last = _find_last_step(out, planned_end)
    begun = last > min(planned_end, steps) - train.decay
    if planned_end <= steps:
        return not (train.decay and begun)
    train = dataclasses.replace(train, steps=steps)
    kept, wanted = (
        [step for step in planned if step <= last]
        for planned in (
            before["eval_steps"],
            evaluation_steps(train, _list_horizons(before, steps)),
        )
    )
    return kept == wanted and not begun


def _find_last_step(out: Path, planned_end: int) -> int:
    if (out / MARKER).exists():
        return planned_end
    steps = (path.name for path in (out / CHECKPOINTS).glob("*"))
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _list_horizons(before: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """Return the last steps that earlier plans of a run had, if they are below `steps`."""
    ends = (*before.get("horizons", ()), before["train"].get("steps", steps))
    return tuple(end for end in ends if end < steps)


def _read_rates(languages: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {lang: float(counts["rate"]) for lang, counts in languages.items()}


def describe_run(
    out: Path,
    plan: RunPlan,
    examples: str | Path,
    measured: Mapping[str, Any],
    *,
    is_copy: bool = False,
) -> None:
    """Write config.json; if the file exists, update only the settings that may change.

    If the run is in a bucket, `out` is a copy, and no relative path leads from it to local files.
    """
    if (out / CONFIG).is_file():
        before = read_run(out)
        now_set = {"train": identifying_settings(plan.train), "attention": measured["attention"]}
        after = {**before, **now_set}
        now = parse_train_config(before)
        changed = [name for name in FREE if getattr(now, name) != getattr(plan.train, name)]
        if changed:
            say("train", f"continues with other settings: {', '.join(changed)}")
        if now.steps != plan.train.steps:
            say("train", f"the last step was {now.steps:,}, and is {plan.train.steps:,} now")
            after |= {"eval_steps": list(plan.evaluation_steps), "horizons": list(plan.horizons)}
        if after != before:
            storage.write_json(out / CONFIG, after)
        return
    out.mkdir(parents=True, exist_ok=True)
    identity = plan.identity
    start = None if is_copy else out
    identity["examples"]["path"] = name_place(start, examples)
    if "tasks" in identity["examples"]:
        paths = {name: name_place(start, place) for name, place in plan.directories.items()}
        identity["examples"] |= {"path": next(iter(paths.values())), "paths": paths}
    if plan.origin is not None:
        identity["origin"]["path"] = name_place(start, plan.origin.path)
    if plan.teacher is not None:
        identity["teacher"]["path"] = name_place(start, plan.teacher.origin.path)
    storage.write_json(
        out / CONFIG,
        {
            **identity,
            "train": identifying_settings(plan.train),
            "config_hash": plan.hash,
            "languages": {lang: dict(counts) for lang, counts in plan.languages.items()},
            "eval_steps": list(plan.evaluation_steps),
            **plan.notes,
            **measured,
        },
    )


def name_place(run: Path | None, place: str | Path) -> str:
    """Return a path relative to the run, as the run's files record it; return a URL unchanged.

    The path is absolute if `run` is None, because the run is in a bucket.
    """
    if storage.is_remote(place):
        return str(place)
    return os.path.abspath(place) if run is None else os.path.relpath(place, run)


def finish_run(out: Path, plan: RunPlan, final_loss: float) -> None:
    """Mark the run finished."""
    identity = read_run(out)["config_hash"]
    marker = {"config_hash": identity, "step": plan.train.steps, "final_loss": final_loss}
    write_atomically(out / MARKER, canonical_json(marker) + "\n")


def read_run(run: Path) -> dict[str, Any]:
    """Return the config.json of a run directory."""
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is not a training run (no {CONFIG}): give what `train --out` made")
    described = read_json_object(run / CONFIG)
    missing = [
        part for part in ("model", "train", "examples", "config_hash") if part not in described
    ]
    if missing:
        raise UserError(
            f"{run / CONFIG} does not belong to a training run (it lacks {missing[0]!r}): give "
            "what `train --out` made; `mswitch import-hf` makes a run of a Hugging Face model"
        )
    return described


def read_marker(run: Path) -> dict[str, Any] | None:
    """Return the completion marker: `config_hash`, `step`, `final_loss`; None if unfinished."""
    if not (run / MARKER).is_file():
        return None
    marker = read_json_object(run / MARKER)
    if not {"step", "final_loss"} <= marker.keys():
        raise UserError(
            f"{run / MARKER} does not belong to a training run: remove it, and the run continues"
        )
    return marker


def check_vocabulary(
    run: str | Path,
    described: Mapping[str, Any],
    place: str | Path,
    manifest: Mapping[str, Any],
    advice: str = BUILD_EXAMPLES,
) -> None:
    """Check that a run and examples have the same vocabulary.

    An imported run only needs an embedding for each piece of the vocabulary. `place` and `manifest`
    belong to the examples. The error contains `advice`.
    """
    rows, trained_on = described["model"]["vocabulary_size"], described["examples"]
    size = manifest["vocabulary_size"]
    if rows < size:
        raise UserError(f"{run} has {rows:,} rows for the {size:,} pieces of {place}: {advice}")
    if trained_on and trained_on["vocabulary_sha256"] != manifest["vocabulary_sha256"]:
        raise UserError(
            f"{run} was trained with another vocabulary than {place} has: {advice}; the run's is "
            f"in {trained_on['path']} (relative to the run)"
        )


def check_model_file(
    run: str | Path, described: Mapping[str, Any], vocabulary: "VocabularyModel"
) -> None:
    """Check that a run has the vocabulary of a model file, as `check_vocabulary` does."""
    sizes = {"vocabulary_size": vocabulary.size, "vocabulary_sha256": vocabulary.model_sha256}
    advice = "give the vocabulary that the model was trained with"
    check_vocabulary(run, described, vocabulary.path, sizes, advice)


def parse_model(config: Mapping[str, Any]) -> ModelConfig:
    """Return the model that a config.json describes."""
    return _build(ModelConfig, config["model"])


def parse_train_config(config: Mapping[str, Any]) -> TrainConfig:
    """Return the training configuration that a config.json describes."""
    return _build(TrainConfig, config["train"])


def _build(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    try:
        return kind(**settings)
    except TypeError as error:
        raise UserError(
            f"the run's {CONFIG} has unknown settings ({error}): restore it from a copy"
        ) from error
