"""Which runs of a report are compared: each candidate with the baseline of its seed."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.runs import Run, check_pair
from mswitch.flows.reports.speedup import LanguageLosses
from mswitch.models.training.run_directory import FREE
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.progress import say

#: What a student takes of its teacher, in whichever seed.
TEACHING = ("soft_weight", "temperature", "init", "gather", "samples")
#: Baseline and candidate of each seed, in the order of seeds.
Pairs = Sequence[tuple[Run, Run]]


def pair_up(
    baselines: Sequence[Run], candidates: Sequence[Run], *, longer: bool = False
) -> list[Pairs]:
    """Pair the runs of each candidate with the baseline's by seed.

    Args:
        baselines: runs of one model, each with another seed.
        candidates: runs of one model or several.
        longer: whether these may have trained for other steps, and a single one with another seed.

    Returns:
        The pairs of each candidate, in the order in which the candidates were given.
    """
    if len(baselines) == len(candidates) == 1:
        check_pair(baselines[0], candidates[0], longer=longer, any_seed=longer)
        return [[(baselines[0], candidates[0])]]
    models = _by_model(baselines)
    if len(models) > 1:
        first, second, *_ = (next(iter(runs.values())) for runs in models)
        raise UserError(
            f"{first.option} and {second.option} differ in more than their seed "
            f"({', '.join(_differences(first, second))}): give the runs of one model as --baseline"
        )
    by_seed = models[0]
    pairs = []
    for runs in _by_model(candidates):
        for seed, run in runs.items():
            if seed not in by_seed:
                raise UserError(
                    f"{run.option} was trained with seed {seed}, and no --baseline was: train one "
                    f"with --seed {seed}, or leave this run out"
                )
            check_pair(by_seed[seed], run, longer=longer)
        pairs.append([(by_seed[seed], runs[seed]) for seed in sorted(runs)])
    for seed in sorted(by_seed.keys() - {run.seeds[0] for run in candidates}):
        say(
            "report",
            f"{by_seed[seed].option} is left out: no --{candidates[0].role} has seed {seed}",
        )
    return pairs


def pair_students(of_teacher: Pairs, students: Sequence[Run]) -> list[tuple[Pairs, Pairs]]:
    """Pair each student with the teacher it learned from and that one's baseline.

    Seeds of students matter to nothing: of one teacher there may be several of a model, or each of
    several teachers has one.

    Args:
        of_teacher: baseline and teacher of each seed.
        students: of one model or several.

    Returns:
        Of each model of student, the pairs of baseline and teacher, and of baseline and student.
    """
    by_hash = {teacher.config["config_hash"]: (base, teacher) for base, teacher in of_teacher}
    models: dict[str, dict[tuple[str, int], Run]] = defaultdict(dict)
    for student in students:
        _check_taught(student, [teacher for _, teacher in of_teacher])
        key = student.config["teacher"]["config_hash"], student.seeds[0]
        check_pair(by_hash[key[0]][0], student, any_seed=True)
        of_model = models[canonical_json(_settings(student))]
        if key in of_model:
            raise UserError(
                f"{of_model[key].option} and {student.option} are the same model with the same "
                f"seed ({key[1]}) and teacher: give one of them"
            )
        of_model[key] = student
    found = []
    for of_model in models.values():
        order = {name: number for number, name in enumerate(by_hash)}
        ordered = sorted(of_model.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        taught = [by_hash[name] for (name, _), _ in ordered]
        if len(by_hash) > 1 and [name for (name, _), _ in ordered] != list(by_hash):
            raise UserError(
                "--student: give one for each --teacher, or several of a single teacher"
            )
        found.append(
            (taught, [(pair[0], run) for pair, (_, run) in zip(taught, ordered, strict=True)])
        )
    return found


def _check_taught(student: Run, teachers: Sequence[Run]) -> None:
    """Check that a student learned from the last step of one of the teachers."""
    taught = student.config.get("teacher")
    if taught is None:
        raise UserError(f"{student.option} has no teacher: give what mswitch distill made")
    for teacher in teachers:
        if taught["config_hash"] != teacher.config["config_hash"]:
            continue
        if taught["step"] != teacher.steps[-1]:
            raise UserError(
                f"{student.option} learned from step {taught['step']:,} of {teacher.option}, which "
                f"ended at {teacher.steps[-1]:,}: distill from the last step"
            )
        return
    given = ", ".join(teacher.option for teacher in teachers)
    raise UserError(f"{student.option} had another teacher than {given}")


def merged(runs: Sequence[Run]) -> Run:
    """One run that stands for those of all seeds: the first one, with the times of all."""
    if len(runs) == 1:
        return runs[0]
    times = [run.step_secs for run in runs if run.step_secs]
    devices = {run.config["device"] for run in runs}
    return dataclasses.replace(
        runs[0],
        config={**runs[0].config, "device": ", ".join(sorted(devices))},
        step_secs=float(np.median(times)) if times else None,
        identity={
            "run": ", ".join(run.identity["run"] for run in runs),
            "seeds": [run.identity for run in runs],
        },
        seeds=tuple(run.seeds[0] for run in runs),
    )


def model_names(models: Sequence[Run]) -> list[str]:
    """What the models are called: their presets, with what differs where those are equal."""
    names = [run.name for run in models]
    for index, run in enumerate(models):
        alike = [other for other in models if other.name == run.name and other is not run]
        if alike:
            settings = _settings(run)
            keys = sorted({key for other in alike for key in _differences(run, other)})
            values = [f"{key.rpartition('.')[2]} {settings.get(key)}" for key in keys]
            names[index] = f"{run.name} ({', '.join(values)})"
    return names


def check_seeds(by_seed: Sequence[Sequence[LanguageLosses]], runs: tuple[Run, Run]) -> None:
    """Check that all seeds were evaluated on the same documents."""

    def documents(losses: Sequence[LanguageLosses]) -> list[tuple[str, list[int], list[int]]]:
        return [(each.lang, each.tokens.tolist(), each.target_bytes.tolist()) for each in losses]

    first, *others = map(documents, by_seed)
    for other in others:
        if other != first:
            raise UserError(
                f"the seeds of {runs[0].name} and {runs[1].name} were evaluated on different "
                "documents: evaluate all with the same --examples"
            )


def _by_model(runs: Sequence[Run]) -> list[dict[int, Run]]:
    """The runs of each model by seed."""
    models: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        of_seeds = models[canonical_json(_settings(run))]
        if run.seeds[0] in of_seeds:
            raise UserError(
                f"{of_seeds[run.seeds[0]].option} and {run.option} are the same model with the "
                f"same seed ({run.seeds[0]}): give one of them"
            )
        of_seeds[run.seeds[0]] = run
    return list(models.values())


def _settings(run: Run) -> dict[str, Any]:
    """What makes a model, by dotted names: all but the seed and what does not change results."""
    config = run.config
    free, taught = {"seed", *FREE}, config.get("teacher") or {}
    parts: Mapping[str, Any] = {
        "model": config["model"],
        "train": {key: value for key, value in config["train"].items() if key not in free},
        "mixture": config.get("mixture") or {},
        "teacher": {key: value for key, value in taught.items() if key in TEACHING},
    }
    dotted = {f"{part}.{key}": value for part, each in parts.items() for key, value in each.items()}
    return {"preset": run.name, "examples": config["examples"].get("config_hash"), **dotted}


def _differences(one: Run, other: Run) -> list[str]:
    ours, theirs = _settings(one), _settings(other)
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
