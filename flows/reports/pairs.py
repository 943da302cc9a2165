"""Match candidates with baselines of the same seed, students with baselines of their teachers."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.runs import EvaluatedRun, check_alike, list_differences
from mswitch.flows.reports.speedup import LanguageLosses
from mswitch.models.evaluation.schemas import CLUSTER
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
    # Without `next-fit`, `train.pack` does not change which examples a training step uses.
    free += [] if "next-fit" in packs else ["train.pack"]
    if baseline.in_bytes and candidate.in_bytes:
        # Losses per byte can be compared between vocabularies if the text is the same. Here, check
        # the training texts' sizes in bytes. Validation documents are checked later.
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
    """Pair the runs of each candidate with the baseline's runs by seed.

    `baselines` are runs of one model, each with another seed. If `longer`, candidates may have
    other steps, and a single one another seed.

    Returns:
        The pairs of each candidate, in the given order.
    """
    if len(baselines) == len(candidates) == 1:
        check_pair(baselines[0], candidates[0], longer=longer, any_seed=longer)
        return [[(baselines[0], candidates[0])]]
    by_seed = index_by_seed(baselines)
    pairs = []
    for runs in _group_by_model(candidates):
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


def _group_by_model(
    runs: Sequence[EvaluatedRun], teachers: Sequence[str] = ()
) -> list[dict[Any, EvaluatedRun]]:
    """Return a dictionary of each model's runs by seed.

    If `teachers` has hashes, the keys are pairs of a teacher's index and a seed.
    """
    models: dict[str, dict[Any, EvaluatedRun]] = defaultdict(dict)
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key != "train.seed"}
        key = run.seed
        if teachers:
            key = teachers.index(run.config["teacher"]["config_hash"]), run.seed
        before = models[canonical_json(settings)].setdefault(key, run)
        if before is not run:
            raise UserError(
                f"{before.option} and {run.option} are the same model with the same seed "
                f"({run.seed}){' and teacher' if teachers else ''}: give one of them"
            )
    return list(models.values())


def index_by_seed(runs: Sequence[EvaluatedRun]) -> dict[int, EvaluatedRun]:
    """Return the runs of one model by seed; refuse several models."""
    models = _group_by_model(runs)
    if len(models) > 1:
        first, second, *_ = (next(iter(of_seeds.values())) for of_seeds in models)
        changed = list_differences(first, second).keys() - {"train.seed"}
        raise UserError(
            f"{first.option} and {second.option} differ in more than their seed "
            f"({', '.join(sorted(changed))}): give the runs of one model as --{first.role}"
        )
    return models[0]


def pair_students(of_teacher: Pairs, students: Sequence[EvaluatedRun]) -> list[tuple[Pairs, Pairs]]:
    """Pair each student with its teacher and the teacher's baseline.

    Seeds of students need not match: one teacher may have several students of a model, or each of
    several teachers has one.

    Args:
        of_teacher: baseline and teacher of each seed.
        students: students of one model or several.

    Returns:
        For each model of students, pairs of baseline and teacher, and of baseline and student.
    """
    hashes = [teacher.config["config_hash"] for _, teacher in of_teacher]
    for student in students:
        _check_taught(student, [teacher for _, teacher in of_teacher])
        number = hashes.index(student.config["teacher"]["config_hash"])
        check_pair(of_teacher[number][0], student, any_seed=True)
    paired = []
    for runs in _group_by_model(students, hashes):
        ordered = sorted(runs)
        if len(hashes) > 1 and [number for number, _ in ordered] != [*range(len(hashes))]:
            raise UserError(
                "--student: give one for each --teacher, or several of a single teacher"
            )
        taught = [of_teacher[number] for number, _ in ordered]
        own = [(pair[0], runs[key]) for pair, key in zip(taught, ordered, strict=True)]
        paired.append((taught, own))
    return paired


def _check_taught(student: EvaluatedRun, teachers: Sequence[EvaluatedRun]) -> None:
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


def merge_seeds(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
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


def pair_seed_losses(pairs: Pairs) -> list[list[LanguageLosses]]:
    """Return the losses of each language with each seed, all on the same documents.

    Near-duplicates count once, by the clusters in the first baseline's evaluation. Runs evaluated
    per byte have bytes in place of tokens, and bits in place of nats.
    """
    first, other = pairs[0]
    size, unit = ("target_bytes", np.log(2)) if first.in_bytes else ("target_tokens", 1)
    keys = ["lang", "document", size]
    documents = first.documents.select(keys)
    for baseline, candidate in pairs:
        own = baseline.documents.select(keys)
        if not candidate.documents.select(keys).equals(own):
            raise UserError(
                f"{baseline.option} and {candidate.option} were evaluated on different documents: "
                "evaluate both with the same --examples and --max-documents"
            )
        if not own.equals(documents):
            raise UserError(
                f"the seeds of {first.option} and {other.option} were evaluated on different "
                "documents: evaluate all with the same --examples and --max-documents"
            )
    langs = np.array(documents["lang"].to_pylist())
    tokens, sizes = (first.documents[name].to_numpy() for name in (size, "target_bytes"))
    losses = [(baseline.nats / unit, candidate.nats / unit) for baseline, candidate in pairs]
    of_languages = []
    for lang in np.unique(langs).tolist():
        rows = langs == lang
        seeds = [
            LanguageLosses(lang, tokens[rows], sizes[rows], ours[rows], theirs[rows])
            for ours, theirs in losses
        ]
        if CLUSTER in first.documents.column_names:
            clusters = first.documents[CLUSTER].to_numpy()[rows]
            seeds = [each.sum_clusters(clusters) for each in seeds]
        of_languages.append(seeds)
    return of_languages
