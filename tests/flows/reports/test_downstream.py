"""Comparisons of fine-tuned runs: JSON, page and CSV, refusals, and their place in a report."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from made_reports import assert_inert, parse_page, visible_words
from report_runs import Scenario, edit_config, write_runs
from tuned_runs import (
    LABELS,
    compare_tuned_from,
    right_of_ten,
    write_pretrained_longer,
    write_tuned,
)

from mswitch.flows.cli.app import run as run_command
from mswitch.flows.reports.downstream import write_downstream, write_run_page
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.models.inference.prediction_scores import format_scores
from mswitch.models.training.run_directory import read_run
from mswitch.pipelines.errors import UserError

ROWS = {"de": 40, "sw": 40, "yo": 40, "fi": 40, "th": 40, "zh": 4}
SPARSE = "8 experts, learned router"
HOSTILE = "</script><script>alert(1)</script>\u202e<img src=x onerror=alert(2)>"


def tuned(out: Path, right: int, preset: str = "mswitch-tiny", **options) -> Path:
    return write_tuned(out, right_of_ten(right), preset, **{"rows": ROWS, **options})


def pair(place: Path, dense=5, sparse=8, **options) -> tuple[Path, Path]:
    return (
        tuned(place / "dense", dense, "mt5-tiny", **options),
        tuned(place / "sparse", sparse, **options),
    )


def of_seeds(place: Path, name: str, rights: dict[int, int], **options) -> list[Path]:
    return [tuned(place / f"{name}-{seed}", n, seed=seed, **options) for seed, n in rights.items()]


def compare(dense, sparse, out: Path, *scratch: Path, **options):
    """What downstream.json holds of a run of each model, or of several, and the page."""
    sides = [[side] if isinstance(side, Path) else side for side in (dense, sparse)]
    write_downstream(*sides, out, scratch, **options)
    return read(out)


def read(out: Path):
    page = parse_page((out / "downstream.html").read_text(encoding="utf-8"))
    return json.loads((out / "downstream.json").read_text()), page


def table(page, css: str) -> list[list[str]]:
    found = next(t for t in page.iterfind(".//table") if css in (t.get("class") or ""))
    return [[visible_words(cell) for cell in row] for row in found.iterfind(".//tr")]


def values(scores) -> list[float]:
    return [round(each["value"], 1) for each in scores["models"]]


def test_both_models_with_majority_and_scratch_beside(tmp_path, capsys):
    dense, sparse = pair(tmp_path)
    scratch = tuned(tmp_path / "scratch", 5, "mt5-tiny", origin=None)
    out = tmp_path / "out"
    options = ["--baseline", str(dense), "--candidate", str(sparse), "--scratch", str(scratch)]
    assert run_command(["report", "downstream", *options, "--out", str(out)]) == 0
    assert "5 better after holm, 0 worse after holm" in capsys.readouterr().out
    data, page = read(out)
    # zh has four rows, all of them right of both.
    average = data["results"][0]["average"]
    assert values(average) == [58.3, 83.3, 58.3]
    assert average["difference"]["value"] == pytest.approx(25)
    assert data["summary"]["verdict"].startswith(f"“{SPARSE}” is better on toy: accuracy is 83")
    assert [run["name"] for run in data["runs"]][2] == "dense, from scratch"
    assert [run["reads"] for run in data["runs"]] == ["test read 1 time"] * 3
    gain = data["summary"]["gains_of_pretraining"]
    assert [each["difference"]["value"] for each in gain] == [0]
    assert any(each.endswith(", no clear one.") for each in data["summary"]["cautions"])
    assert visible_words(page.find(".//h1")) == data["summary"]["verdict"]
    assert visible_words(page.find(".//header/p")).endswith(f"{SPARSE}: test read 1 time")
    said = [visible_words(each) for each in page.iterfind(".//div[@class='caution']/p")]
    assert said == data["summary"]["cautions"]
    assert "5 of 5 judged languages are clearly better" in visible_words(page)
    head, first, second, *_ = table(page, "layers")
    assert head == [
        *("Metric", "Majority", "dense, from scratch", "dense"),
        *(SPARSE, "Difference"),
    ]
    assert first[:2] == ["accuracylabels, mean of languages", "37.5"]
    assert second[0] == "accuracylabels, all rows"
    rows = {row.get("data-lang"): row for row in page.iterfind(".//tbody/tr[@data-lang]")}
    assert set(rows) == set(ROWS)
    assert rows["zh"].get("class") == "out"
    clear = {row["lang"]: row["results"][0]["clear_after_holm"] for row in data["languages"]}
    assert clear == {lang: lang != "zh" for lang in ROWS}
    with (out / "downstream.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS) * 2
    german = next(line for line in lines if line["lang"] == "de" and line["metric"] == "accuracy")
    columns = ("baseline", "candidate", "scratch_1", "majority", "difference")
    assert [float(german[key]) for key in columns] == [50, 80, 50, 35, 30]
    assert next(line for line in lines if line["lang"] == "zh")["difference_low"] == ""


@pytest.mark.parametrize("several", [(), ("de",), ("de", "fi", "sw", "th", "yo")])
def test_macro_f1_has_no_mean_over_languages_with_one_true_class(tmp_path, several):
    """Where the label is the language, it tells how many wrong classes were given."""

    def answer(lang: str, row: int) -> str:
        return LABELS[row % 3 if lang in several else sorted(ROWS).index(lang) // 2]

    dense, sparse = pair(tmp_path, 9, 10, task={"metrics": ["macro_f1", "accuracy"]}, answer=answer)
    data, page = compare(dense, sparse, tmp_path / "out")
    lead, other = data["results"]
    if several:
        assert table(page, "layers")[1][0] == (
            f"macro_f1labels, mean of {len(several)} of 6 languages"
        )
        assert lead["average"]["models"][1]["value"] == 100
        assert lead["average"]["languages"] == len(several)
    else:
        assert [row[0] for row in table(page, "layers")[1:]] == [
            *("accuracylabels, mean of languages", "accuracylabels, all rows"),
            "macro_f1labels, all rows",
        ]
        assert (lead["metric"], other["average"]) == ("accuracy", None)
        alone = [
            tuned(tmp_path / name, 9, name, answer=answer, task={"metrics": ["macro_f1"]})
            for name in "ab"
        ]
        with pytest.raises(UserError, match="macro_f1 has no mean over languages: add"):
            compare(*alone, tmp_path / "alone")
    # Languages with one class are judged, by exchange: a tenth of 40 rows is not certain.
    by_lang = {each["lang"]: each["results"] for each in data["languages"]}
    assert by_lang["zh"][0]["p_value"] is None
    assert all(each["p_value"] > 0.03 for each in by_lang["yo"])
    low, high = by_lang["yo"][0]["difference"]["ci"]
    assert -100 <= low < high <= 100
    write_index(tmp_path)
    assert f'"metric": "{lead["metric"]}"' in (tmp_path / "index.json").read_text()
    predicted = json.loads(next(dense.rglob("test-160-labels.json")).read_text())
    assert (predicted["mean"]["macro_f1"] is None) == (not several)
    shown = format_scores(predicted, ["macro_f1"]).splitlines()[-1].split()
    assert (shown[1:] == ["n/a", "n/a"]) == (not several)


@pytest.mark.parametrize(
    ("dense", "sparse", "rows", "beginning"),
    [
        (8, 5, 20, f"“{SPARSE}” is worse on toy: accuracy is 50.0 for “{SPARSE}”"),
        (5, 5, 20, "No clear difference on toy: accuracy is 50.0"),
        (5, 8, 4, "Too little to judge on toy"),
    ],
)
def test_the_verdict_follows_the_interval(tmp_path, dense, sparse, rows, beginning):
    rows = dict.fromkeys(("de", "sw", "yo", "fi", "th") if rows > 4 else ("de",), rows)
    data, _ = compare(*pair(tmp_path, dense, sparse, rows=rows), tmp_path / "out")
    assert data["summary"]["verdict"].startswith(beginning)


def test_several_seeds_give_one_comparison(tmp_path):
    dense = of_seeds(tmp_path, "dense", {0: 4, 1: 5, 2: 6})
    sparse = of_seeds(tmp_path, "sparse", {0: 5, 1: 7, 2: 6})
    scratch = tuned(tmp_path / "scratch", 5, origin=None)
    data, page = compare(dense[::-1], [sparse[1], sparse[0], sparse[2]], tmp_path / "out", scratch)
    assert data["summary"]["verdict"].endswith("as the mean over 6 languages and 3 seeds.")
    seeds = [[each["seed"] for each in run["seeds"]] for run in data["runs"]]
    assert seeds == [[0, 1, 2], [0, 1, 2], [0]]
    assert data["runs"][0]["reads"] == "test read 1 time with each seed"
    assert data["speed_up"] is None
    average = data["results"][0]["average"]
    assert [len(each) for each in average["seeds"]] == [3, 3, 1]
    means = [sum(each) / len(each) for each in average["seeds"]]
    assert average["difference"]["value"] == pytest.approx(means[1] - means[0], abs=1e-3)
    _, *rows = table(page, "seeds")
    assert [(row[0][0], row[-1]) for row in rows] == [("0", "+8.3"), ("1", "+16.7"), ("2", "0.0")]


def test_given_again_it_does_nothing_and_other_predictions_are_refused(tmp_path):
    dense, sparse = pair(tmp_path)
    out = tmp_path / "out"
    first = write_downstream([dense], [sparse], out)
    assert not first["reused"]
    assert write_downstream([dense], [sparse], out) == {**first, "reused": True}
    (sparse / "predictions" / "toy" / "test_reads.json").write_text('{"reads": []}')
    with pytest.raises(UserError, match="other settings or inputs"):
        write_downstream([dense], [sparse], out)


def test_languages_without_an_interval_may_be_judged(tmp_path):
    """All groups differ by the same amount, so no language has an interval."""
    data, _ = compare(*pair(tmp_path, dense=0, sparse=10), tmp_path / "out")
    # zh has too few groups to be judged.
    assert (data["summary"]["languages_judged"], data["summary"]["better_after_holm"]) == (5, 0)
    cautions = data["summary"]["cautions"]
    assert any(each.startswith("No language has its own interval") for each in cautions)


def test_every_way_of_decoding_is_named(tmp_path):
    data, _ = compare(*pair(tmp_path, decodes=("greedy", "labels")), tmp_path / "out")
    assert [(r["decode"], r["metric"]) for r in data["results"]] == [
        ("labels", "accuracy"),
        ("labels", "macro_f1"),
        ("greedy", "accuracy"),
        ("greedy", "macro_f1"),
    ]
    reads = "test read 2 times (step 160 by greedy, step 160 by labels)"
    assert data["runs"][0]["reads"] == reads


def test_a_task_of_free_text_has_no_majority_and_names_its_signature(tmp_path):
    task = {"labels": None, "metrics": ["chrf", "exact_match"]}
    runs = pair(tmp_path, 4, 9, rows={"de": 10, "sw": 10}, task=task)
    data, page = compare(*runs, tmp_path / "out")
    assert table(page, "layers")[0] == ["Metric", "dense", SPARSE, "Difference"]
    assert "nrefs:var|case:mixed" in data["results"][0]["signature"]
    assert data["results"][0]["signature"] in [code.text for code in page.iterfind(".//p/code")]
    assert data["results"][0]["everything"] is None
    chrf, exact = data["languages"][0]["results"]
    assert (chrf["majority"], exact["models"][1]["value"]) == (None, 90)
    assert chrf["difference"]["ci"][0] > 0
    with (tmp_path / "out" / "downstream.csv").open(newline="") as file:
        assert {line["majority"] for line in csv.DictReader(file)} == {""}
    write_run_page(runs[1], tmp_path / "page")
    assert "Majority" not in (tmp_path / "page" / "run.html").read_text()


@pytest.mark.parametrize(
    ("dense", "sparse", "reason"),
    [
        ({}, {"right": 0}, None),
        ({"right": 0}, {"right": 0}, "No score reaches 5 of 100"),
        ({"task": {"name": "language_of"}}, {"task": {"name": "language_of"}}, "The labels are"),
        ({"split": "validation"}, {"split": "validation"}, "These are figures of validation"),
        ({}, {}, "No model trained from scratch was given"),
        ({"reads": (80, 160)}, {}, "Test was read from several steps of “dense”"),
        ({}, {"reads": (160, 160)}, "Test was read 2 times by “8 .*”, for 1 way of decoding"),
        ({}, {"origin": 1600}, "“dense” began with step 400 .* “8 .*” with step 1,600"),
        ({}, {}, "One seed of fine-tuning"),
    ],
)
def test_what_makes_a_figure_too_good_is_said(tmp_path, dense, sparse, reason):
    runs = [
        tuned(tmp_path / preset, preset=preset, **{"right": 5, **options})
        for preset, options in (("mt5-tiny", dense), ("mswitch-tiny", sparse))
    ]
    data, _ = compare(*runs, tmp_path / "out", split=dense.get("split", "test"))
    cautions = data["summary"]["cautions"]
    assert any(re.match(reason or "No score reaches", each) for each in cautions) == bool(reason)


def test_texts_of_the_task_are_no_markup(tmp_path):
    _, page = compare(
        *pair(tmp_path, task={"inputs": HOSTILE, "targets": HOSTILE}), tmp_path / "out"
    )
    assert_inert(page)
    text = (tmp_path / "out" / "downstream.html").read_text()
    assert "\u202e" not in text.partition('id="report"')[0]


def test_several_checkpoints_of_pretraining_give_a_speed_up(tmp_path):
    dense, sparse = write_pretrained_longer(tmp_path, rows=ROWS)
    data, page = compare(dense[::-1], sparse, tmp_path / "out")
    found = data["speed_up"]
    assert found["steps"] == [100, 200, 400]
    assert found["step_speedup"] == pytest.approx(2)
    # Both have the same rows right where they are equally good.
    assert found["step_speedup_ci"] == pytest.approx([2, 2])
    assert found["baseline"][0]["value"] < found["baseline"][2]["value"]
    assert len(list(page.iterfind(".//figure/{*}svg"))) == 2
    # The page is of the runs from the last checkpoint.
    assert [run["origin"]["step"] for run in data["runs"]] == [400, 400]


def test_a_way_of_decoding_that_the_last_pair_alone_has_is_left_out(tmp_path):
    dense, sparse = write_pretrained_longer(tmp_path, rows=ROWS, decodes=("greedy",))
    for run in (dense[-1], sparse[-1]):
        place = run / "predictions" / "toy"
        for suffix in ("parquet", "json"):
            shutil.copy(place / f"test-160-greedy.{suffix}", place / f"test-160-labels.{suffix}")
    data, _ = compare(dense, sparse, tmp_path / "out")
    assert {result["decode"] for result in data["results"]} == {"greedy"}
    assert data["speed_up"]["step_speedup"] == pytest.approx(2)


def test_what_a_larger_model_needs_otherwise_is_free_and_so_are_other_tasks_of_both(tmp_path):
    free = {"data_parallel": 2, "remat": "full", "scan_layers": True, "loss_chunks": 4}
    runs = pair(tmp_path)[0], tuned(tmp_path / "free", 8, **free)
    several = {"config_hash": "both", "tasks": {"text": "a corpus", "reviews": "tasks"}}
    for out in ("one", "several"):
        data, _ = compare(*runs, tmp_path / out)
        assert data["summary"]["languages"] == len(ROWS)
        for run in runs:
            edit_config(run, examples=several)


BOTH = {"dense": {0: 4, 1: 5}}
#: Options of each candidate beside mt5-tiny, and of the comparison; and what each seed has right.
REFUSED = [
    ([{"base_learning_rate": 0.1}], {}, r"differ in train.base_learning_rate \(0.001 and 0.1\)"),
    ([{"seed": 1, "steps": 80}], {}, r"train.seed \(0 and 1\), train.steps \(160 and 80\)"),
    ([{"optimizer": "adamw", "weight_decay": 0.1}], {}, r"weight_decay \(\S+ and 0.1\)"),
    ([{"dtype": "float32", "z_loss": 0}], {}, r"dtype \(bfloat16 and float32\), train.z_loss"),
    ([{"microbatches": 2}], {}, r"microbatches \(1 and 2\)"),
    ([{"freeze": "experts"}], {}, r"freeze \(none and experts\)"),
    ([{"decodes": ("greedy",)}], {}, r"decoded differently \(labels and greedy\)"),
    ([{"rows": {"de": 20}}], {}, "predicted different rows"),
    ([{"origin": 100}, {"origin": 200}], {}, "at least 3 checkpoints after step 0"),
    ([{"origin": 100}, {"origin": 100}], {}, "were both fine-tuned from step 100: give one"),
    ([{}, {"origin_hash": "0" * 16, "origin": 1}], {}, "began with different models"),
    ([{}, {"origin": None}], {}, "did not begin with another run"),
    ([{"origin": n} for n in (1, 2, 3)], {}, "from the steps of pretraining"),
    ([{}], {"task": "none"}, "has no predictions of none: choose among toy"),
    ([{}], {"split": "validation"}, r"no predictions of validation \(only test\)"),
    ([{"seed": 0}, {"seed": 1}], {}, r"with the seeds \[0\] and \[0, 1\]: give runs with the same"),
    ([{"seed": 2, "origin": 1}, {"seed": 2, "origin": 1}], {}, "both fine-tuned from step 1: give"),
    ([{"seed": 0}, {"seed": 2}], BOTH, r"with the seeds \[0, 1\] and \[0, 2\]: give runs with the"),
    ([{"seed": 0}, {"seed": 2}, {"seed": 2}], BOTH, "were both fine-tuned with seed 2: give one"),
    ([{"seed": 0}, {"seed": 1, "batch_size": 9}], BOTH, r"train.batch_size \(8 and 9\)"),
    ([{"seed": 0}, {"seed": 1, "origin_hash": "0"}], BOTH, "began with different models: give"),
]


@pytest.mark.parametrize(("candidates", "options", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused_with_what_differs(
    tmp_path, candidates, options, message
):
    options = {**options}
    dense = of_seeds(tmp_path, "dense", options.pop("dense", {0: 5}), preset="mt5-tiny")
    runs = [tuned(tmp_path / str(n), 7, **each) for n, each in enumerate(candidates)]
    with pytest.raises(UserError, match=message):
        compare(dense, runs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"examples": {"config_hash": "a corpus"}}, "not trained on the examples of toy"),
        ({"examples": None}, "not trained on the examples of toy"),
        (
            {"examples": {"config_hash": "x", "tasks": {"other": "y"}}},
            "not trained on the examples",
        ),
        ({"teacher": {"preset": "mswitch-tiny"}}, "learned from a teacher"),
    ],
)
@pytest.mark.parametrize("role", ["baseline", "candidate", "scratch"])
def test_a_run_that_was_not_trained_on_the_task_alone_is_refused(tmp_path, role, changed, message):
    baseline, candidate = pair(tmp_path)
    scratch = tuned(tmp_path / "scratch", 5, origin=None)
    edit_config({"baseline": baseline, "candidate": candidate, "scratch": scratch}[role], **changed)
    with pytest.raises(UserError, match=rf"^--{role} \S+ (was )?{message}"):
        compare(baseline, candidate, tmp_path / "out", scratch)


def test_a_run_without_usable_predictions_is_refused(tmp_path):
    dense, sparse = pair(tmp_path)
    place = sparse / "predictions" / "toy"

    def refused(message: str, *runs: Path) -> None:
        with pytest.raises(UserError, match=message):
            compare(*(runs or (dense, sparse)), tmp_path / "out")

    refused("are one run: give two", dense, dense)
    path = place / "test-160-labels.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    refused("cannot read toy/test-160-labels.parquet as Parquet: remove .* mswitch predict again")
    path.write_bytes(whole)
    (sparse / "selected.json").write_text('{"step": 80, "values": {}}')
    refused("predicted test with step 160, but step 80 is selected")
    (sparse / "predictions" / "other").mkdir()
    refused("has predictions of other, toy: choose by --task")
    (sparse / "_COMPLETED").unlink()
    refused("is still in training")
    refused("is not a training run", tmp_path, sparse)
    shutil.rmtree(dense / "predictions" / "toy")
    refused("has no predictions: run mswitch predict")
    with pytest.raises(UserError, match=r"--scratch .* began with another run: give"):
        compare(*pair(tmp_path / "more"), tmp_path / "out", tuned(tmp_path / "begun", 5))


def pretrained(tmp_path: Path) -> tuple[Path, Path]:
    return write_runs(tmp_path, Scenario({"de": 8, "sw": 6, "yo": 6}, 3.0, steps=200))


FEW = ReportConfig(resamples=100)


def test_the_report_of_the_pair_takes_it_in(tmp_path):
    runs = pretrained(tmp_path)
    downstream = compare_tuned_from(runs, tmp_path, rows=ROWS)
    out = tmp_path / "reports" / "report"
    summary = write_report(*runs, out, FEW, downstream=[downstream])
    [section] = json.loads((out / "report.json").read_text())["downstream"]
    assert not any("Fine-tuned from step" in caution for caution in section["cautions"])
    compared = json.loads((downstream / "downstream.json").read_text())
    assert section["verdict"] == compared["summary"]["verdict"]
    linked = out / section["path"]
    assert linked.read_bytes() == (downstream / "downstream.html").read_bytes()
    page = parse_page((out / "report.html").read_text())
    assert f"./{section['path']}" in {link.get("href") for link in page.iterfind(".//a")}
    assert write_report(*runs, out, FEW, downstream=[downstream]) == {**summary, "reused": True}
    assert write_index(tmp_path / "reports")["reports"] == 1
    with pytest.raises(UserError, match=r"other settings or inputs \(changed: downstream\)"):
        write_report(*runs, out, FEW)


def test_the_report_says_why_a_downstream_speed_up_is_undefined(tmp_path):
    runs = pretrained(tmp_path)
    downstream = compare_tuned_from(runs, tmp_path, origins=(50, 100, 200), rows=ROWS)
    write_report(*runs, tmp_path / "report", FEW, downstream=[downstream])
    [section] = json.loads((tmp_path / "report" / "report.json").read_text())["downstream"]
    assert "not defined, because “dense” was never" in section["speed_up"]["sentence"]


def test_the_report_says_if_models_were_tuned_from_earlier_steps(tmp_path):
    runs = pretrained(tmp_path)
    downstream = compare_tuned_from(runs, tmp_path, origins=(100,), rows=ROWS)
    write_report(*runs, tmp_path / "report", FEW, downstream=[downstream])
    [section] = json.loads((tmp_path / "report" / "report.json").read_text())["downstream"]
    assert section["cautions"][-1] == (
        "Fine-tuned from step 100; pretraining above is to step 200."
    )


def test_each_of_several_candidates_has_its_own_comparison_of_a_task(tmp_path):
    dense, sparse = pretrained(tmp_path)
    other = shutil.copytree(sparse, tmp_path / "other")
    model = {**read_run(other)["model"], "experts": 4}
    edit_config(other, model=model, config_hash="f" * 16)
    mine = [
        compare_tuned_from((dense, run), tmp_path / f"of {run.name}", rows=ROWS)
        for run in (sparse, other)
    ]
    out = tmp_path / "report"
    write_report([dense], [sparse, other], out, FEW, downstream=mine)
    candidates = json.loads((out / "report.json").read_text())["candidates"]
    for candidate, downstream in zip(candidates, mine, strict=True):
        place = (out / candidate["path"]).parent
        [section] = json.loads((place / "report.json").read_text())["downstream"]
        linked = place / section["path"]
        assert linked.read_bytes() == (downstream / "downstream.html").read_bytes()


def test_a_report_refuses_what_is_not_of_its_runs(tmp_path):
    runs = pretrained(tmp_path)
    dense, sparse = pair(tmp_path / "others")
    write_downstream([dense], [sparse], tmp_path / "other")
    write_run_page(dense, tmp_path / "page")
    good = compare_tuned_from(runs, tmp_path, rows=ROWS)
    for given, message in (
        ([tmp_path / "other"], r"--downstream .*other: its runs were not fine-tuned from"),
        ([good, good], "are of the same task: give one"),
        ([tmp_path / "nothing"], "give a comparison of fine-tuned runs"),
        ([tmp_path / "page"], "is of one run: give an output of `mswitch report"),
    ):
        with pytest.raises(UserError, match=message):
            write_report(*runs, tmp_path / "report", FEW, downstream=given)
