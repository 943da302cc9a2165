"""Compute the contents of the downstream pages, as the data of their JSON and CSV."""

from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports import downstream_sentences as sentences
from mswitch.flows.reports.numbers import CONFIDENCE_PERCENT, rounded
from mswitch.flows.reports.pages import csv_text, language_fields
from mswitch.flows.reports.scores import Average, Result, Rows
from mswitch.flows.reports.tuned_runs import DECODES, TunedRun
from mswitch.flows.reports.verdicts import judge_tuned
from mswitch.tasks.batches.multitask import name_leaf
from mswitch.tasks.metric_intervals import MIN_GROUPS, RESAMPLES

#: Limits on a run's page: predictions per language, and characters per text.
SHOWN_PREDICTIONS = 5
SHOWN_CHARACTERS = 400


def pair_data(
    models: Sequence[Sequence[TunedRun]],
    names: Sequence[str],
    results: Sequence[Result],
    speed_up: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the contents of downstream.json for a pair.

    Args:
        models: the runs of each seed of baseline, candidate, and models that learned the task from
            random parameters.
        names: their names on the page.
        results: results of each way of decoding and metric; the page begins with the first.
        speed_up: the downstream speed-up, with both models' scores by steps of pretraining.
    """
    data = _data(models, names, results)
    runs = [seeds[0] for seeds in models]
    pair = (names[0], names[1])
    lead, average = results[0], _average(results[0])
    scores = lead.languages.values()
    clear = [each["difference"]["value"] for each in scores if each["clear_after_holm"]]
    with_interval = sum(each["difference"]["ci"] is not None for each in scores)
    gains = []
    for number, run in enumerate(runs[:2]):
        for beside in range(2, len(runs)):
            if runs[beside].name == run.name:
                difference = average.difference(beside, number).as_json()
                gains.append(
                    {"name": names[number], "scratch": names[beside], "difference": difference}
                )
    data["summary"] |= {
        "languages_judged": sum(each["p_value"] is not None for each in scores),
        "better_after_holm": sum(value > 0 for value in clear),
        "worse_after_holm": sum(value < 0 for value in clear),
        "verdict": judge_tuned(data["results"][0], pair, data["task"]["name"], len(models[0])),
        "cautions": sentences.cautions(models, gains, with_interval, _best(lead)),
        "gains_of_pretraining": gains,
    }
    data["speed_up"] = None
    if speed_up is not None:
        data["speed_up"] = {**speed_up, "sentence": sentences.speed_up(speed_up, pair)}
    return rounded(data)


def run_data(run: TunedRun, rows: Rows, results: Sequence[Result]) -> dict[str, Any]:
    """Return the contents of run.json; the page begins with the first result, of `rows`."""
    data = _data([[run]], [run.name], results)
    lead = results[0]
    scores = lead.languages.values()
    with_interval = sum(each["models"][0]["ci"] is not None for each in scores)
    data["summary"] |= {
        "languages_with_interval": with_interval,
        "cautions": sentences.cautions([[run]], (), with_interval, _best(lead)),
    }
    chosen = run.validation
    data["validation"] = chosen and {key: chosen[key] for key in ("metric", "step", "values")}
    inputs = run.predictions[rows.decode].table["inputs"].to_pylist()
    worst = rows.worst(results[0].metric, SHOWN_PREDICTIONS)
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
    task, table = first.task, first.predictions[lead.decode].table
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
            "metric": lead.metric,
            "decode": lead.decode,
            "languages": len(lead.languages),
            "rows": table.num_rows,
            "groups": len(table["group"].unique()),  # not a sum: languages may share groups
            "confidence_percent": CONFIDENCE_PERCENT,
        },
        "results": [_result(result) for result in results],
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


def _average(result: Result) -> Average:
    """Return the average of the first result, which always has an average."""
    assert result.average is not None
    return result.average


def _best(result: Result) -> float:
    return max(each.value for each in _average(result).models)


def _result(result: Result) -> dict[str, Any]:
    average = result.average
    paired = any(each["difference"] for each in result.languages.values())
    return {
        "decode": result.decode,
        "metric": result.metric,
        "signature": result.signature,
        "average": average
        and {
            "languages": average.languages,
            "models": [each.as_json() for each in average.models],
            "majority": average.majority,
            "difference": average.difference(0, 1).as_json() if paired else None,
            "seeds": [own.tolist() for own in average.seeds],
        },
        "everything": result.everything,
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
    reads = "; ".join(dict.fromkeys(map(sentences.reads, seeds)))
    config, taught = run.config, run.config.get("teacher")
    return {
        "name": name,
        "preset": run.name,
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
    """Return a run's origin and, nested in it, all earlier origins, without paths."""
    if origin is None:
        return None
    kept = {key: origin.get(key) for key in ("preset", "config_hash", "step", "keep_moments")}
    return {**kept, "origin": _chain(origin.get("origin"))}


def to_csv(data: Mapping[str, Any]) -> str:
    """Format a line for each language, way of decoding and metric; a missing value is empty."""
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
