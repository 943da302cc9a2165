"""Match candidates with baselines of the same seed, students with baselines of their teachers."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mswitch.flows.reports.runs import (
    EvaluatedRun,
    check_alike,
    list_differences,
    pair_losses,
    read_clusters,
)
from mswitch.flows.reports.speedup import LanguageLosses
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.progress import say

#: Settings that must be equal for a fair comparison.
FAIR = ("examples.", "mixture.", "evaluation.")
FAIR_TRAINING = ("train.seed", "train.batch_size", "train.pack", "train.steps", "train.decay")

#: Baseline and candidate of each seed, in the order of seeds.
Pairs = Sequence[tuple[EvaluatedRun, EvaluatedRun]]


def check_pair(
    baseline: EvaluatedRun, candidate: EvaluatedRun, *, longer: bool = False, any_seed: bool = False
) -> None:
    """Check that only the model differs; `longer` and `any_seed` allow other steps and seeds."""
    if baseline.directory.resolve() == candidate.directory.resolve():
        raise UserError(
            f"--baseline and --{candidate.role} are both {baseline.directory}: give two runs, the "
            "dense one as baseline"
        )
    free = ["train.steps", "evaluation.steps"] if longer else []
    free += ["train.seed"] if any_seed else []
    packs = {run.config["train"].get("pack") for run in (baseline, candidate)}
    # The number of examples in a row does not change a step's set of examples.
    free += [] if "next-fit" in packs else ["train.pack"]
    if baseline.in_bytes and candidate.in_bytes:
        # With the same text, losses per byte can be compared between vocabularies. The bytes of
        # training text are compared here, and the documents of validation text later.
        free += ["examples.config_hash", "examples.vocabulary_sha256"]
        if _text(baseline) != _text(candidate):
            raise UserError(
                f"{baseline.option} and {candidate.option} were trained on different text: make "
                "the examples of both from one corpus"
            )
    ours, theirs = baseline.steps_before, candidate.steps_before
    if ours != theirs:
        raise UserError(
            f"{baseline.option} continued after {ours:,} steps of an optimizer and "
            f"{candidate.option} after {theirs:,}: begin both with runs of equal steps"
        )
    fix = "train and evaluate both on the same examples, with the same options"
    if baseline.config.get("horizons") != candidate.config.get("horizons"):
        fix += "; if one was extended, extend the other from the same step"
    check_alike(baseline, candidate, (*FAIR, *FAIR_TRAINING), fix, free)


def _text(run: EvaluatedRun) -> dict[str, int]:
    """Return bytes of training text by language, which do not depend on the vocabulary."""
    languages = run.config["languages"].items()
    return {lang: int(counts.get("train_bytes", 0)) for lang, counts in languages}


def pair_up(
    baselines: Sequence[EvaluatedRun], candidates: Sequence[EvaluatedRun], *, longer: bool = False
) -> list[Pairs]:
    """Pair the runs of each candidate with the baseline's by seed.

    Args:
        baselines: runs of one model, each with another seed.
        candidates: runs of one model or several.
        longer: whether candidates may have other steps, and a single one another seed.

    Returns:
        The pairs of each candidate, in the order in which the candidates were given.
    """
    if len(baselines) == len(candidates) == 1:
        check_pair(baselines[0], candidates[0], longer=longer, any_seed=longer)
        return [[(baselines[0], candidates[0])]]
    by_seed = index_by_seed(baselines)
    pairs = []
    for runs in _by_model(candidates):
        for seed, run in runs.items():
            if seed not in by_seed:
                raise UserError(
                    f"{run.option} was trained with seed {seed}, but no --baseline was: train one "
                    f"with --seed {seed}, or leave this run out"
                )
            check_pair(by_seed[seed], run, longer=longer)
        pairs.append([(by_seed[seed], runs[seed]) for seed in sorted(runs)])
    for seed in sorted(by_seed.keys() - {run.seed for run in candidates}):
        say(
            "report",
            f"{by_seed[seed].option} is left out: no --{candidates[0].role} has seed {seed}",
        )
    return pairs


def _by_model(runs: Sequence[EvaluatedRun]) -> list[dict[int, EvaluatedRun]]:
    """Return the runs of each model by seed."""
    models: dict[str, dict[int, EvaluatedRun]] = defaultdict(dict)
    for run in runs:
        of_seeds = models[_model(run)]
        if run.seed in of_seeds:
            raise UserError(
                f"{of_seeds[run.seed].option} and {run.option} are the same model with the same "
                f"seed ({run.seed}): give one of them"
            )
        of_seeds[run.seed] = run
    return list(models.values())


def index_by_seed(runs: Sequence[EvaluatedRun]) -> dict[int, EvaluatedRun]:
    """Return the runs of one model by seed; refuse several models."""
    models = _by_model(runs)
    if len(models) > 1:
        first, second, *_ = (next(iter(of_seeds.values())) for of_seeds in models)
        changed = list_differences(first, second).keys() - {"train.seed"}
        raise UserError(
            f"{first.option} and {second.option} differ in more than their seed "
            f"({', '.join(sorted(changed))}): give the runs of one model as --{first.role}"
        )
    return models[0]


def _model(run: EvaluatedRun) -> str:
    settings = {key: value for key, value in run.settings.items() if key != "train.seed"}
    return canonical_json(settings)


def pair_students(of_teacher: Pairs, students: Sequence[EvaluatedRun]) -> list[tuple[Pairs, Pairs]]:
    """Pair each student with its teacher and with the baseline of this teacher.

    Seeds of students need not match: one teacher may have several students of a model, or each of
    several teachers has one.

    Args:
        of_teacher: baseline and teacher of each seed.
        students: students of one model or several.

    Returns:
        For each model of students, pairs of baseline and teacher, and of baseline and student.
    """
    by_hash = {teacher.config["config_hash"]: (base, teacher) for base, teacher in of_teacher}
    models: dict[str, dict[tuple[int, int], EvaluatedRun]] = defaultdict(dict)
    for student in students:
        _check_taught(student, [teacher for _, teacher in of_teacher])
        teacher = student.config["teacher"]["config_hash"]
        check_pair(by_hash[teacher][0], student, any_seed=True)
        of_model, key = models[_model(student)], (list(by_hash).index(teacher), student.seed)
        if key in of_model:
            raise UserError(
                f"{of_model[key].option} and {student.option} are the same model with the same "
                f"seed ({student.seed}) and teacher: give one of them"
            )
        of_model[key] = student
    paired = []
    for of_model in models.values():
        ordered = sorted(of_model.items())
        if len(of_teacher) > 1 and [number for (number, _), _ in ordered] != [*range(len(by_hash))]:
            raise UserError(
                "--student: give one for each --teacher, or several of a single teacher"
            )
        taught = [of_teacher[number] for (number, _), _ in ordered]
        own = [(pair[0], run) for pair, (_, run) in zip(taught, ordered, strict=True)]
        paired.append((taught, own))
    return paired


def _check_taught(student: EvaluatedRun, teachers: Sequence[EvaluatedRun]) -> None:
    """Check that a student learned from the last step of one of the teachers."""
    taught = student.config.get("teacher")
    if taught is None:
        raise UserError(f"{student.option} has no teacher: give a run of mswitch distill")
    matching = [each for each in teachers if each.config["config_hash"] == taught["config_hash"]]
    if not matching:
        given = ", ".join(teacher.option for teacher in teachers)
        raise UserError(f"{student.option} had another teacher than {given}")
    if taught["step"] != matching[0].steps[-1]:
        raise UserError(
            f"{student.option} learned from step {taught['step']:,} of {matching[0].option}, which "
            f"ended at {matching[0].steps[-1]:,}: distill from the last step"
        )


def merged(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """Return the first seed's run, with the times of all seeds, to represent all runs."""
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
        seeds=tuple(run.seed for run in runs),
    )


def model_names(models: Sequence[EvaluatedRun]) -> list[str]:
    """Name the models by their presets, and by their different settings if presets are equal."""
    names = [run.name for run in models]
    for index, run in enumerate(models):
        alike = [other for other in models if other.name == run.name and other is not run]
        if alike:
            keys = {key for other in alike for key in list_differences(run, other)} - {"train.seed"}
            settings = run.settings
            values = [f"{key.rpartition('.')[2]} {settings.get(key)}" for key in sorted(keys)]
            names[index] = f"{run.name} ({', '.join(values)})"
    return names


def pair_seed_losses(pairs: Pairs) -> list[tuple[LanguageLosses, ...]]:
    """Return the losses of each language with each seed, all on the same documents.

    Near-duplicates count once, by the clusters in the first baseline's evaluation.
    """

    def documents(losses: Sequence[LanguageLosses]) -> list[tuple[str, list[int], list[int]]]:
        return [(each.lang, each.tokens.tolist(), each.target_bytes.tolist()) for each in losses]

    by_seed = [pair_losses(*pair) for pair in pairs]
    first, *others = map(documents, by_seed)
    if any(other != first for other in others):
        one, other = pairs[0]
        raise UserError(
            f"the seeds of {one.name} and {other.name} were evaluated on different documents: "
            "evaluate all with the same --examples and --max-documents"
        )
    clusters = read_clusters(pairs[0][0])
    if clusters is not None:
        by_seed = [[each.sum_clusters(clusters[each.lang]) for each in seed] for seed in by_seed]
    return list(zip(*by_seed, strict=True))
