"""Compute the numbers in reports on fine-tuned runs, for the reports' JSON and CSV files."""

from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.names import name_models
from mswitch.flows.reports.numbers import (
    CONFIDENCE_PERCENT,
    bounded,
    plural,
    rounded,
    speed_up_interval,
    with_interval,
)
from mswitch.flows.reports.pages import csv_text, language_fields
from mswitch.flows.reports.scores import Result, Rows
from mswitch.flows.reports.sentences import quoted
from mswitch.flows.reports.tuned_runs import DECODES, TunedRun
from mswitch.flows.reports.verdicts import judge, judge_tuned
from mswitch.tasks.batches.multitask import name_leaf
from mswitch.tasks.metric_intervals import MIN_GROUPS, RESAMPLES

SHOWN_PREDICTIONS = 5
SHOWN_CHARACTERS = 400
TASK_NOTES = {
    "language_of": "The labels are the corpus’ own: which language a text of it is in. The task "
    "can be learned without pretraining. This page shows that fine-tuning and its measurement work "
    "from end to end, not what a pretrained model is worth."
}
#: A smaller difference in points proves little with only one fine-tuning seed.
SEED_POINTS = 2
#: A model below this score, in points of 100, has not learned the task.
FLOOR_POINTS = 5


def pair_data(
    models: Sequence[Sequence[TunedRun]],
    names: Sequence[str],
    results: Sequence[Result],
    speed_up: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the contents of downstream.json for a baseline model and a candidate model.

    `models` has runs of baseline, candidate, and models that learned the task from random
    parameters, one for each seed. `names` are the models' names on the page, which begins with the
    first of `results`. `speed_up` has both models' scores by steps of pretraining.
    """
    data = _data(models, names, results)
    runs = [seeds[0] for seeds in models]
    pair = (names[0], names[1])
    lead = results[0]
    assert lead.average is not None  # results with an average come first
    scores = lead.languages.values()
    clear = [each["difference"]["value"] for each in scores if each["clear_after_holm"]]
    own_interval = sum(each["difference"]["ci"] is not None for each in scores)
    gains = []
    for number, run in enumerate(runs[:2]):
        for beside in range(2, len(runs)):
            if runs[beside].preset == run.preset:
                difference = lead.average.difference(beside, number).as_json()
                gains.append(
                    {"name": names[number], "scratch": names[beside], "difference": difference}
                )
    data["summary"] |= {
        "languages_judged": sum(each["p_value"] is not None for each in scores),
        "better_after_holm": sum(value > 0 for value in clear),
        "worse_after_holm": sum(value < 0 for value in clear),
        "verdict": judge_tuned(data["results"][0], pair, data["task"]["name"], len(models[0])),
        "cautions": _list_cautions(models, names, gains, own_interval, lead.data["average"]),
        "gains_of_pretraining": gains,
    }
    data["speed_up"] = None
    if speed_up is not None:
        data["speed_up"] = {**speed_up, "sentence": _describe_speed_up(speed_up, pair)}
    return rounded(data)


def run_data(run: TunedRun, rows: Rows, results: Sequence[Result]) -> dict[str, Any]:
    """Return the contents of run.json for one fine-tuned run.

    `rows` are the predictions behind `results[0]`.
    """
    names = name_models([run])
    data = _data([[run]], names, results)
    lead = results[0]
    scores = lead.languages.values()
    own_interval = sum(each["models"][0]["ci"] is not None for each in scores)
    data["summary"] |= {
        "languages_with_interval": own_interval,
        "cautions": _list_cautions([[run]], names, (), own_interval, lead.data["average"]),
    }
    chosen = run.validation
    data["validation"] = chosen and {key: chosen[key] for key in ("metric", "step", "values")}
    inputs = run.predictions[rows.decode].table["inputs"].to_pylist()
    worst = rows.worst(lead.data["metric"], SHOWN_PREDICTIONS)
    for language in data["languages"]:
        language["worst"] = [
            {
                "inputs": _shortened(inputs[row]),
                "answers": [_shortened(answer) for answer in rows.answers[row]],
                "prediction": _shortened(rows.texts[0][0][row]),
            }
            for row in worst[language["lang"]]
        ]
    return rounded(data)


def _shortened(words: str) -> str:
    return words if len(words) <= SHOWN_CHARACTERS else words[: SHOWN_CHARACTERS - 1] + "…"


def _data(
    models: Sequence[Sequence[TunedRun]], names: Sequence[str], results: Sequence[Result]
) -> dict[str, Any]:
    lead, first = results[0], models[0][0]
    task, table = first.task, first.predictions[lead.data["decode"]].table
    return {
        "task": {
            "name": task["name"],
            "inputs": task["inputs"],
            "targets": task["targets"],
            "labels": len(task["labels"]) if task["labels"] else None,
            "hash": task["hash"],
        },
        "summary": {
            "split": first.split,
            "metric": lead.data["metric"],
            "decode": lead.data["decode"],
            "languages": len(lead.languages),
            "rows": table.num_rows,
            "groups": len(table["group"].unique()),  # not a sum: languages may share groups
            "confidence_percent": CONFIDENCE_PERCENT,
        },
        "results": [result.data for result in results],
        "languages": [_language(results, lang, first) for lang in lead.languages],
        "runs": [_run(seeds, name) for seeds, name in zip(models, names, strict=True)],
        "method": {
            "resamples": RESAMPLES,
            "minimum_groups": MIN_GROUPS,
            "interval": "percentile bootstrap over groups of rows, centred on the value",
            "difference_interval": "t interval, jackknife over groups, effective groups - 1 df; "
            "of macro_f1 by exchange",
            "average_interval": "percentile bootstrap over languages, then (common) groups",
            "multiple_testing": "Holm",
        },
    }


def _language(results: Sequence[Result], lang: str, run: TunedRun) -> dict[str, Any]:
    lead = results[0].languages[lang]
    leaves = [name_leaf(task, lang) for task in run.trained_as]
    trained = [run.config["languages"].get(leaf, {}) for leaf in leaves]
    return {
        **language_fields(lang),
        "rows": lead["rows"],
        "groups": lead["groups"],
        "train_rows": sum(int(each.get("train_records", 0)) for each in trained),
        "results": [result.languages[lang] for result in results],
    }


def _run(seeds: Sequence[TunedRun], name: str) -> dict[str, Any]:
    """Describe a model's runs for the page, without their paths."""
    run = seeds[0]
    reads = "; ".join(dict.fromkeys(map(_describe_reads, seeds)))
    config, taught = run.config, run.config.get("teacher")
    return {
        "name": name,
        "preset": run.preset,
        "seeds": [
            {"seed": each.seed, "config_hash": each.config["config_hash"], "step": each.step}
            for each in seeds
        ],
        "origin": _chain(run.origin),
        "teacher": taught and {key: taught[key] for key in ("preset", "step", "init")},
        "imported": "huggingface" in config,
        "reads": f"{reads} with each seed" if len(seeds) > 1 else reads,
        "test_reads": sum(len(each.reads) for each in seeds),
        "parameters": config["parameters"],
        "train": config["train"],
        "settings": {
            decode: {
                key: value
                for key, value in run.predictions[decode].settings.items()
                if key in ("dtype", "limit", "beams", "alpha", "invalid")
            }
            for decode in DECODES
            if decode in run.predictions
        },
    }


def _chain(origin: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    kept = {key: origin.get(key) for key in ("preset", "config_hash", "step", "keep_moments")}
    return {**kept, "origin": _chain(origin.get("origin"))}


def _describe_reads(run: TunedRun) -> str:
    if run.split != "test":
        return f"{run.split}, not test"
    count = len(run.reads)
    shown = f"test read {plural(count, 'time')}"
    if count < 2:
        return shown
    each = ", ".join(f"step {read['step']:,} by {read['decode']}" for read in run.reads)
    return f"{shown} ({each})"


def _list_cautions(
    models: Sequence[Sequence[TunedRun]],
    names: Sequence[str],
    gains: Sequence[Mapping[str, Any]],
    languages_with_interval: int,
    average: Mapping[str, Any],
) -> list[str]:
    """Return sentences on why not to trust a page's figures too much.

    Models after the second began with random parameters; `names` has a name for each. `gains` has
    `name`, `scratch` and `difference` of each pretrained model that is compared with one of these
    models. `average` has means over languages.
    """
    quotes = [*map(quoted, names)]
    runs = [seeds[0] for seeds in models]
    first = runs[0]
    reasons = [TASK_NOTES[first.task["name"]]] if first.task["name"] in TASK_NOTES else []
    if first.split != "test":
        reasons.append(
            f"These are figures of {first.split}. If the checkpoint was chosen on the same rows, "
            "they are too good."
        )
    steps = [run.origin_step for run in runs[:2] if run.origin_step is not None]
    if len(set(steps)) > 1:
        reasons.append(
            f"{quotes[0]} began with step {steps[0]:,} of its pretraining and {quotes[1]} with "
            f"step {steps[1]:,}: a difference may come from that."
        )
    named = zip(quotes, models, strict=True)
    for name, run in ((name, run) for name, seeds in named for run in seeds):
        if run.split == "test" and len({read["step"] for read in run.reads}) > 1:
            reasons.append(
                f"Test was read from several steps of {name}: the step may have been chosen on it."
            )
        elif run.split == "test" and len(run.reads) > len(run.predictions):
            reasons.append(
                f"Test was read {plural(len(run.reads), 'time')} by {name}, for "
                f"{plural(len(run.predictions), 'way')} of decoding: settings may have been chosen "
                "on it."
            )
        if run.selected is not None and run.validation is None:
            reasons.append(
                f"The checkpoint of {name} was chosen on validation of other examples, not of "
                "these."
            )
    for gain in gains:
        clear = "" if judge(gain["difference"]["ci"]) in ("better", "worse") else ", no clear one"
        difference = with_interval(gain["difference"], difference=True)
        reasons.append(
            f"{quoted(gain['name'])} against {quoted(gain['scratch'])}, which began with random "
            f"parameters: a difference of {difference}{clear}."
        )
    if not gains:
        reasons.append(
            "No model trained from scratch was given, so it is unknown how much comes from "
            "pretraining."
        )
    seeds = len(models[0])
    reasons.append(
        f"One seed of fine-tuning: with another one, differences below {SEED_POINTS} points may "
        "reverse. Intervals do not include that."
        if seeds == 1
        else f"{seeds} seeds of fine-tuning: intervals of means and differences include their "
        "variation; intervals of a language’s scores do not."
    )
    if max(each["value"] for each in average["models"]) < FLOOR_POINTS:
        reasons.append(
            f"No score reaches {FLOOR_POINTS} of 100: the task was not learned. A difference and "
            "its interval say little."
        )
    if not languages_with_interval:
        reasons.append(
            f"No language has its own interval: groups of rows are fewer than {MIN_GROUPS}, too "
            "unequal, or all alike."
        )
    return list(dict.fromkeys(reasons))  # remove duplicates, from several runs of a model


def _describe_speed_up(data: Mapping[str, Any], names: tuple[str, str]) -> str:
    baseline, candidate = map(quoted, names)
    value = data["step_speedup"]
    subject = f"Downstream step speed-up of {candidate} over {baseline}"
    if value is None:
        return (
            f"{subject}: not defined, because {baseline} was never better than from its first "
            "checkpoint."
        )
    ends = speed_up_interval(data["step_speedup_ci"], data["step_speedup_ci_censored"])
    shown = f"{subject}: {bounded(value, data['censored'])}"
    shown += f" ({CONFIDENCE_PERCENT}%: {ends})" if ends else ", without an interval"
    return f"{shown}, from {plural(len(data['steps']), 'checkpoint')} of pretraining each."


def to_csv(data: Mapping[str, Any]) -> str:
    """Return CSV with a line for each language, decoding and metric; missing values are empty."""
    scratch = (f"scratch_{number}" for number in range(1, len(data["runs"]) - 1))
    roles = ["baseline", "candidate", *scratch, "difference"]
    lines = []
    for row in data["languages"]:
        for result, scores in zip(data["results"], row["results"], strict=True):
            line = {key: row[key] for key in ("lang", "name", "rows", "groups")}
            line |= {"decode": result["decode"], "metric": result["metric"]}
            line["majority"] = scores["majority"]
            figures = [*scores["models"], scores["difference"]]
            for name, figure in zip(roles, figures, strict=True):
                low, high = figure["ci"] or (None, None)
                line |= {name: figure["value"], f"{name}_low": low, f"{name}_high": high}
            lines.append(line | {"p_value": scores["p_value"], "clear": scores["clear_after_holm"]})
    return csv_text(lines)
