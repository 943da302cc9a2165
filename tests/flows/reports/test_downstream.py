"""The page of a pair of fine-tuned runs, its JSON and CSV, and its place in the report."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import html5lib
import pytest
from made_reports import visible_words
from report_runs import Scenario, edit_config, write_runs
from tuned_runs import LABELS, right_of_ten, write_tuned, wrong

from mswitch.flows.cli.app import run as run_command
from mswitch.flows.reports.downstream import write_downstream, write_run_page
from mswitch.flows.reports.downstream_section import read_downstream
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.models.inference.scores import format_scores
from mswitch.models.training.run_directory import read_run
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import VARIABLE

ROWS = {"de": 40, "sw": 40, "yo": 40, "fi": 40, "th": 40, "zh": 4}
HOSTILE = "</script><script>alert(1)</script>\u202e<img src=x onerror=alert(2)>"


def pair(tmp_path: Path, dense=5, sparse=8, **options) -> tuple[Path, Path]:
    return (
        write_tuned(tmp_path / "dense", right_of_ten(dense), "mt5-tiny", rows=ROWS, **options),
        write_tuned(
            tmp_path / "sparse", right_of_ten(sparse), "mswitch-tiny", rows=ROWS, **options
        ),
    )


def read(out: Path):
    page = (out / "downstream.html").read_text(encoding="utf-8")
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    return json.loads((out / "downstream.json").read_text()), page, parser.parse(page)


def table(page, css: str) -> list[list[str]]:
    found = next(t for t in page.iterfind(".//table") if css in (t.get("class") or ""))
    return [[visible_words(cell) for cell in row] for row in found.iterfind(".//tr")]


def test_both_models_with_majority_and_scratch_beside(tmp_path, capsys):
    dense, sparse = pair(tmp_path)
    scratch = write_tuned(tmp_path / "scratch", right_of_ten(5), rows=ROWS, origin=None)
    out = tmp_path / "out"
    options = ["--baseline", str(dense), "--candidate", str(sparse), "--scratch", str(scratch)]
    assert run_command(["report", "downstream", *options, "--out", str(out)]) == 0
    assert "5 better after holm, 0 worse after holm" in capsys.readouterr().out
    data, _, page = read(out)
    verdict = visible_words(page.find(".//h1"))
    # zh has four rows, all of them right of both.
    assert verdict.startswith(
        "mswitch-tiny is better on toy: accuracy is 83.3 for mswitch-tiny and 58.3 for mt5-tiny, "
        "a difference of +25.0 (95% interval +"
    )
    assert verdict.endswith("), as the mean over 6 languages.")
    assert "test read 1 time" in visible_words(page.find(".//header/p"))
    head, first, second, *_ = table(page, "layers")
    assert head == [
        *("Metric", "Majority", "mt5-tiny from scratch", "mt5-tiny"),
        *("mswitch-tiny", "Difference"),
    ]
    assert first[:2] == ["accuracylabels, mean of languages", "37.5"]
    for cell, value in zip(first[2:], ("58.3", "58.3", "83.3", "+25.0"), strict=True):
        assert cell.startswith(value)
        assert " to " in cell
    assert second[0] == "accuracylabels, all rows"
    caution = visible_words(page.find(".//div[@class='caution']"))
    assert "mt5-tiny against mt5-tiny from scratch, which began with random parameters: " in caution
    assert "no clear one" in caution
    assert "One seed of fine-tuning" in caution
    rows = {row.get("data-lang"): row for row in page.iterfind(".//tbody/tr[@data-lang]")}
    assert set(rows) == set(ROWS)
    assert rows["zh"].get("class") == "out"
    assert [row["clear_after_holm"] for row in (r["results"][0] for r in data["languages"])] == [
        row["lang"] != "zh" for row in data["languages"]
    ]
    with (out / "downstream.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS) * 2
    german = next(line for line in lines if line["lang"] == "de" and line["metric"] == "accuracy")
    assert [float(german[key]) for key in ("baseline", "candidate", "scratch_1", "majority")] == [
        50,
        80,
        50,
        35,
    ]
    assert float(german["difference"]) == 30
    assert next(line for line in lines if line["lang"] == "zh")["difference_low"] == ""


@pytest.mark.parametrize("several", [(), ("de",), ("de", "fi", "sw", "th", "yo")])
def test_macro_f1_has_no_mean_over_languages_with_one_true_class(tmp_path, several):
    """Where the label is the language, it tells how many wrong classes were given."""

    def answer(lang: str, row: int) -> str:
        return LABELS[row % 3 if lang in several else sorted(ROWS).index(lang) // 2]

    task = {"metrics": ["macro_f1", "accuracy"]}
    dense, sparse = pair(tmp_path, 9, 10, task=task, answer=answer)
    write_downstream([dense], [sparse], tmp_path / "out")
    data, text, page = read(tmp_path / "out")
    rows = [line[0] for line in table(page, "layers")]
    verdict, lead = data["summary"]["verdict"], data["results"][0]
    if not several:
        assert rows[1:] == [
            *("accuracylabels, mean of languages", "accuracylabels, all rows"),
            "macro_f1labels, all rows",
        ]
        assert lead["metric"] == "accuracy"
        assert data["results"][1]["average"] is None
        assert "macro_f1 has no mean over languages, each of which has one true class" in text
    else:
        assert rows[1] == f"macro_f1labels, mean of {len(several)} of 6 languages"
        assert verdict.split(" as the mean over ")[1].startswith(f"{len(several)} language")
        assert lead["average"]["models"][1]["value"] == 100
        assert lead["average"]["languages"] == len(several)
    # Languages with one class are judged, by exchange: a tenth of 40 rows is not certain.
    found = next(each for each in data["languages"] if each["lang"] == "zh")
    judged = next(each for each in data["languages"] if each["lang"] == "yo")["results"]
    assert found["results"][0]["p_value"] is None
    assert all(each["p_value"] > 0.03 for each in judged)
    assert -100 <= judged[0]["difference"]["ci"][0] < judged[0]["difference"]["ci"][1] <= 100
    write_index(tmp_path)
    assert f'"metric": "{lead["metric"]}"' in (tmp_path / "index.json").read_text()
    alone = [
        write_tuned(
            tmp_path / name, right_of_ten(9), name, rows=ROWS, answer=answer,
            task={"metrics": ["macro_f1"]},
        )
        for name in ("a", "b")
    ]  # fmt: skip
    if not several:
        with pytest.raises(UserError, match="macro_f1 has no mean over languages: give the task"):
            write_downstream(alone[:1], alone[1:], tmp_path / "alone")
    predicted = json.loads(next(dense.rglob("test-160-labels.json")).read_text())
    assert (predicted["mean"]["macro_f1"] is None) == (not several)
    shown = format_scores(predicted, ["macro_f1"]).splitlines()[-1].split()
    assert (shown[1:] == ["n/a", "n/a"]) == (not several)


@pytest.mark.parametrize(("right", "learned"), [(0, False), (1, True)])
def test_a_task_that_no_model_learned_is_said(tmp_path, right, learned):
    rows = {"de": 40, "sw": 40}
    paths = [
        write_tuned(tmp_path / name, right_of_ten(n), name, rows=rows)
        for name, n in (("mt5-tiny", 0), ("mswitch-tiny", right))
    ]
    write_downstream([paths[0]], [paths[1]], tmp_path / "out")
    *_, page = read(tmp_path / "out")
    caution = visible_words(page.find(".//div[@class='caution']"))
    assert ("No score reaches 5 of 100" in caution) is not learned


def of_seeds(
    tmp_path: Path, name: str, preset: str, rights: dict[int, int], **options
) -> list[Path]:
    return [
        write_tuned(
            tmp_path / f"{name}-{seed}", right_of_ten(n), preset, rows=ROWS, seed=seed, **options
        )
        for seed, n in rights.items()
    ]


def test_several_seeds_give_one_comparison(tmp_path):
    dense = of_seeds(tmp_path, "dense", "mt5-tiny", {0: 4, 1: 5, 2: 6})
    sparse = of_seeds(tmp_path, "sparse", "mswitch-tiny", {0: 5, 1: 7, 2: 6})
    scratch = write_tuned(tmp_path / "scratch", right_of_ten(5), rows=ROWS, origin=None)
    out = tmp_path / "out"
    write_downstream(dense[::-1], [sparse[1], sparse[0], sparse[2]], out, [scratch])
    data, _, page = read(out)
    assert "as the mean over 6 languages and 3 seeds." in visible_words(page.find(".//h1"))
    assert "test read 1 time with each seed" in visible_words(page.find(".//header/p"))
    assert [[each["seed"] for each in run["seeds"]] for run in data["runs"]] == [[0, 1, 2]] * 2 + [
        [0]
    ]
    assert data["speed_up"] is None
    seeds = data["results"][0]["average"]["seeds"]
    assert [len(each) for each in seeds] == [3, 3, 1]
    difference = data["results"][0]["average"]["difference"]
    assert difference["value"] == pytest.approx(sum(seeds[1]) / 3 - sum(seeds[0]) / 3, abs=1e-3)
    _, *rows = table(page, "seeds")
    assert [row[0][0] for row in rows] == ["0", "1", "2"]
    assert [row[-1] for row in rows] == ["+8.3", "+16.7", "0.0"]
    caution = visible_words(page.find(".//div[@class='caution']"))
    assert "3 seeds of fine-tuning: intervals of means" in caution
    assert "One seed" not in caution
    assert "0, 1, 2" in visible_words(page.find(".//table[@class='runs']"))


def test_seeds_that_are_not_of_both_models_are_refused(tmp_path):
    dense = of_seeds(tmp_path, "dense", "mt5-tiny", {0: 4, 1: 5})
    sparse = of_seeds(tmp_path, "sparse", "mswitch-tiny", {0: 5, 2: 7})
    out = tmp_path / "out"
    for candidates, message in (
        (sparse, r"with the seeds \[0, 1\] and \[0, 2\]: give both with the same ones"),
        (sparse[:1], r"with the seeds \[0, 1\] and \[0\]"),
        (
            [*sparse, *of_seeds(tmp_path, "twin", "mswitch-tiny", {0: 5})],
            "were both fine-tuned with seed 0: give one of each",
        ),
        (
            [*sparse[:1], *of_seeds(tmp_path, "b", "mswitch-tiny", {1: 5}, batch_size=9)],
            r"train.batch_size \(8 and 9\)",
        ),
        (
            [*sparse[:1], *of_seeds(tmp_path, "d", "mswitch-tiny", {1: 5}, origin_hash="0" * 16)],
            "began with different models: give runs that were fine-tuned from one",
        ),
    ):
        with pytest.raises(UserError, match=message):
            write_downstream(dense, candidates, out)
    odd = of_seeds(tmp_path, "odd", "mt5-tiny", {3: 4}, steps=80)
    with pytest.raises(UserError, match=r"differ in train.steps \(160 and 80\)"):
        write_downstream(
            [dense[0], *odd], [sparse[0], *of_seeds(tmp_path, "c", "mswitch-tiny", {3: 1})], out
        )
    assert not out.exists()


def test_given_again_it_does_nothing_and_other_predictions_are_refused(tmp_path):
    dense, sparse = pair(tmp_path)
    out = tmp_path / "out"
    first = write_downstream([dense], [sparse], out)
    assert not first["reused"]
    assert write_downstream([dense], [sparse], out) == {**first, "reused": True}
    (sparse / "predictions" / "toy" / "test_reads.json").write_text('{"reads": []}')
    with pytest.raises(UserError, match="other settings or inputs"):
        write_downstream([dense], [sparse], out)


@pytest.mark.slow
def test_killed_while_it_is_published_it_is_written_by_the_next(tmp_path):
    dense, sparse = pair(tmp_path)
    write_downstream([dense], [sparse], tmp_path / "undisturbed")
    out = tmp_path / "out"
    options = ["--baseline", str(dense), "--candidate", str(sparse), "--out", str(out)]
    command = [sys.executable, "-m", "mswitch.flows.cli.main", "report", "downstream", *options]
    for moment in ("before_marker", "before_publish", "after_publish"):
        env = {**os.environ, VARIABLE: f"downstream.{moment}"}
        assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL
    assert write_downstream([dense], [sparse], out)["reused"]
    for path in (tmp_path / "undisturbed").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("dense", "sparse", "beginning"),
    [
        (8, 5, "mswitch-tiny is worse on toy: accuracy is 50.0 for mswitch-tiny"),
        (5, 5, "No clear difference on toy: accuracy is 50.0"),
    ],
)
def test_the_verdict_follows_the_interval(tmp_path, dense, sparse, beginning):
    rows = dict.fromkeys(("de", "sw", "yo", "fi", "th"), 20)
    runs = [
        write_tuned(tmp_path / name, right_of_ten(count), name, rows=rows)
        for name, count in (("mt5-tiny", dense), ("mswitch-tiny", sparse))
    ]
    summary = write_downstream(runs[:1], runs[1:], tmp_path / "out")
    assert summary["verdict"].startswith(beginning)
    few = [
        write_tuned(tmp_path / f"few-{name}", right_of_ten(count), name, rows={"de": 4})
        for name, count in (("mt5-tiny", dense), ("mswitch-tiny", sparse))
    ]
    summary = write_downstream(few[:1], few[1:], tmp_path / "few")
    assert summary["verdict"].startswith("Too few languages to judge on toy")


def test_languages_without_an_interval_may_be_judged(tmp_path):
    """All groups differ by the same amount, so no language has an interval."""
    dense, sparse = pair(tmp_path, dense=0, sparse=10)
    write_downstream([dense], [sparse], tmp_path / "out")
    data, _, page = read(tmp_path / "out")
    summary = data["summary"]
    # zh has too few groups to be judged.
    assert (summary["languages_judged"], summary["better_after_holm"]) == (5, 0)
    assert "languages_with_interval" not in summary
    assert any(each.startswith("No language has its own interval") for each in summary["cautions"])
    note = visible_words(page.find(".//section[@aria-labelledby='results-h']/p"))
    assert "0 of 5 judged languages are clearly better" in note


def test_every_way_of_decoding_is_named(tmp_path):
    dense, sparse = pair(tmp_path, decodes=("greedy", "labels"))
    write_downstream([dense], [sparse], tmp_path / "out")
    data, _, page = read(tmp_path / "out")
    assert [(r["decode"], r["metric"]) for r in data["results"]] == [
        ("labels", "accuracy"),
        ("labels", "macro_f1"),
        ("greedy", "accuracy"),
        ("greedy", "macro_f1"),
    ]
    named = [row[0] for row in table(page, "layers")[1:]]
    assert [("labels" in name, "greedy" in name) for name in named] == [
        *([(True, False)] * 4),
        *([(False, True)] * 4),
    ]
    reads = "test read 2 times (step 160 by greedy, step 160 by labels)"
    assert data["runs"][0]["reads"] == reads
    assert reads in visible_words(page.find(".//header/p"))


def test_a_task_of_free_text_has_no_majority_and_names_its_signature(tmp_path):
    task = {"labels": None, "metrics": ["chrf", "exact_match"]}
    rows = {"de": 10, "sw": 10}
    runs = [
        write_tuned(tmp_path / name, right_of_ten(count), name, rows=rows, task=task)
        for name, count in (("mt5-tiny", 4), ("mswitch-tiny", 9))
    ]
    write_downstream(runs[:1], runs[1:], tmp_path / "out")
    data, _, page = read(tmp_path / "out")
    assert table(page, "layers")[0] == ["Metric", "mt5-tiny", "mswitch-tiny", "Difference"]
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


def test_what_makes_a_figure_too_good_is_said(tmp_path):
    dense, sparse = pair(tmp_path, split="validation", task={"name": "language_of"})
    write_downstream([dense], [sparse], tmp_path / "out", split="validation")
    data, _, page = read(tmp_path / "out")
    cautions = data["summary"]["cautions"]
    assert cautions[0].startswith("The labels are the corpus’ own")
    assert any("chosen on the same rows they are too good" in each for each in cautions)
    assert any("No model trained from scratch" in each for each in cautions)
    assert "validation, not test" in visible_words(page.find(".//header/p"))
    several = pair(tmp_path / "again", reads=(80, 160))
    write_downstream(several[:1], several[1:], tmp_path / "several")
    data, _, _ = read(tmp_path / "several")
    assert data["runs"][0]["reads"] == "test read 2 times (step 80 by labels, step 160 by labels)"
    assert any("read from several steps of mt5-tiny" in e for e in data["summary"]["cautions"])


def test_reads_of_both_models_head_the_page_and_too_many_are_said(tmp_path):
    dense, _ = pair(tmp_path)
    often = write_tuned(
        tmp_path / "often", right_of_ten(8), "mswitch-tiny", rows=ROWS, reads=(160, 160)
    )
    write_downstream([dense], [often], tmp_path / "out")
    data, _, page = read(tmp_path / "out")
    both = (
        "mt5-tiny: test read 1 time",
        "mswitch-tiny: test read 2 times (step 160 by labels, step 160 by labels)",
    )
    assert visible_words(page.find(".//header/p")).endswith(" · ".join(both))
    [caution] = [each for each in data["summary"]["cautions"] if each.startswith("Test was read")]
    assert caution.startswith("Test was read 2 times by mswitch-tiny, for 1 way of decoding")
    [found] = read_downstream([tmp_path / "out"])
    assert found.section["reads"] == "; ".join(both)


def test_texts_of_the_task_are_no_markup(tmp_path):
    dense, sparse = pair(tmp_path, task={"inputs": HOSTILE, "targets": HOSTILE})
    write_downstream([dense], [sparse], tmp_path / "out")
    _, text, page = read(tmp_path / "out")
    assert len(list(page.iterfind(".//script"))) == 2
    assert not list(page.iterfind(".//img"))
    assert "\u202e" not in text.partition('id="report"')[0]


def from_steps(tmp_path: Path, steps=(100, 200, 400), **options) -> tuple[list[Path], list[Path]]:
    made = []
    for preset, counts in (("mt5-tiny", (3, 5, 7)), ("mswitch-tiny", (5, 7, 8))):
        made.append(
            [
                write_tuned(
                    tmp_path / f"{preset}-{step}",
                    right_of_ten(count),
                    preset,
                    rows=ROWS,
                    origin=step,
                    **options,
                )
                for step, count in zip(steps, counts, strict=False)
            ]
        )
    return made[0], made[1]


def test_several_checkpoints_of_pretraining_give_a_speed_up(tmp_path):
    dense, sparse = from_steps(tmp_path)
    write_downstream(dense[::-1], sparse, tmp_path / "out")
    data, _, page = read(tmp_path / "out")
    found = data["speed_up"]
    assert found["steps"] == [100, 200, 400]
    assert found["step_speedup"] == pytest.approx(2)
    # Both have the same rows right where they are equally good.
    assert found["step_speedup_ci"] == pytest.approx([2, 2])
    assert found["baseline"][0]["value"] < found["baseline"][2]["value"]
    section = next(
        s for s in page.iterfind(".//section") if s.get("aria-labelledby") == "speedup-h"
    )
    assert "Downstream step speed-up of mswitch-tiny over mt5-tiny: 2.00×" in visible_words(section)
    assert len(list(section.iterfind(".//{*}svg"))) == 2
    # The page is of the runs from the last checkpoint.
    assert [run["origin"]["step"] for run in data["runs"]] == [400, 400]


def test_a_way_of_decoding_that_the_last_pair_alone_has_is_left_out(tmp_path):
    dense, sparse = from_steps(tmp_path, decodes=("greedy",))
    for run in (dense[-1], sparse[-1]):
        place = run / "predictions" / "toy"
        for suffix in ("parquet", "json"):
            shutil.copy(place / f"test-160-greedy.{suffix}", place / f"test-160-labels.{suffix}")
    write_downstream(dense, sparse, tmp_path / "out")
    data, _, _ = read(tmp_path / "out")
    assert {result["decode"] for result in data["results"]} == {"greedy"}
    assert data["speed_up"]["step_speedup"] == pytest.approx(2)


def pretrained(tmp_path: Path) -> tuple[Path, Path]:
    documents = {"de": 8, "sw": 6, "yo": 6}
    return write_runs(tmp_path, Scenario(documents, dict.fromkeys(documents, 3.0), steps=200))


def tuned_from(runs: tuple[Path, Path], tmp_path: Path, **options) -> Path:
    described = [read_run(run) for run in runs]
    tuned = [
        write_tuned(
            tmp_path / f"tuned-{number}",
            right_of_ten(5 + number),
            each["preset"],
            rows=ROWS,
            origin_hash=each["config_hash"],
            **options,
        )
        for number, each in enumerate(described)
    ]
    out = tmp_path / "downstream"
    write_downstream(tuned[:1], tuned[1:], out)
    return out


def test_the_report_of_the_pair_takes_it_in(tmp_path):
    runs = pretrained(tmp_path)
    downstream = tuned_from(runs, tmp_path)
    out = tmp_path / "reports" / "report"
    config = ReportConfig(resamples=100)
    summary = write_report(*runs, out, config, downstream=[downstream])
    report = json.loads((out / "report.json").read_text())
    [section] = report["downstream"]
    assert section["verdict"].startswith("mswitch-base is better on toy")
    linked = out / section["path"]
    assert linked.read_bytes() == (downstream / "downstream.html").read_bytes()
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    page = parser.parse((out / "report.html").read_text())
    found = next(
        s for s in page.iterfind(".//section") if s.get("aria-labelledby") == "downstream1"
    )
    assert found.find(".//a").get("href") == f"./{section['path']}"
    assert "test read 1 time" in visible_words(found)
    assert "No model trained from scratch" in visible_words(found)
    assert write_report(*runs, out, config, downstream=[downstream]) == {**summary, "reused": True}
    assert write_index(tmp_path / "reports")["reports"] == 1
    with pytest.raises(UserError, match=r"other settings or inputs \(changed: downstream\)"):
        write_report(*runs, out, config)


def test_the_report_says_why_a_downstream_speed_up_is_undefined(tmp_path):
    runs = pretrained(tmp_path)
    dense, sparse = (
        [
            write_tuned(
                tmp_path / f"{described['preset']}-{step}",
                right_of_ten(count),
                described["preset"],
                rows=ROWS,
                origin=step,
                origin_hash=described["config_hash"],
            )
            for step, count in ((50, 7), (100, 5), (200, 3))
        ]
        for described in map(read_run, runs)
    )
    write_downstream(dense, sparse, tmp_path / "downstream")
    out = tmp_path / "report"
    write_report(*runs, out, ReportConfig(resamples=100), downstream=[tmp_path / "downstream"])
    page = html5lib.HTMLParser(namespaceHTMLElements=False).parse((out / "report.html").read_text())
    assert (
        "Downstream step speed-up of mswitch-base over mt5-base: not defined, because mt5-base was "
        "never better than from its first checkpoint." in visible_words(page)
    )


def test_each_of_several_candidates_has_its_own_comparison_of_a_task(tmp_path):
    dense, sparse = pretrained(tmp_path)
    other = shutil.copytree(sparse, tmp_path / "other")
    model = {**read_run(other)["model"], "experts": 4}
    edit_config(other, model=model, config_hash="f" * 16)
    tuned = []
    for run in (sparse, other):
        place = tmp_path / f"of {run.name}"
        tuned.append(tuned_from((dense, run), place))
    out = tmp_path / "report"
    write_report([dense], [sparse, other], out, ReportConfig(resamples=100), downstream=tuned)
    for candidate, mine in zip(
        json.loads((out / "report.json").read_text())["candidates"], tuned, strict=True
    ):
        report = json.loads((out / candidate["path"]).with_name("report.json").read_text())
        [section] = report["downstream"]
        linked = (out / candidate["path"]).parent / section["path"]
        assert linked.read_bytes() == (mine / "downstream.html").read_bytes()


def test_a_report_refuses_what_is_not_of_its_runs(tmp_path):
    runs = pretrained(tmp_path)
    dense, sparse = pair(tmp_path / "others")
    other = tmp_path / "other"
    write_downstream([dense], [sparse], other)
    config = ReportConfig(resamples=100)
    with pytest.raises(UserError, match=r"--downstream .*other: its runs were not fine-tuned from"):
        write_report(*runs, tmp_path / "report", config, downstream=[other])
    good = tuned_from(runs, tmp_path)
    with pytest.raises(UserError, match="are of the same task: give one"):
        write_report(*runs, tmp_path / "report", config, downstream=[good, good])
    with pytest.raises(UserError, match="give a comparison of fine-tuned runs"):
        write_report(*runs, tmp_path / "report", config, downstream=[tmp_path / "nothing"])
    page = tmp_path / "page"
    assert run_command(["report", "run", str(dense), "--out", str(page)]) == 0
    with pytest.raises(UserError, match="is of one run: give what `mswitch report downstream`"):
        write_report(*runs, tmp_path / "report", config, downstream=[page])


def test_what_cannot_be_compared_is_refused_with_what_differs(tmp_path):
    dense, _ = pair(tmp_path)

    def other(name: str, preset: str = "mswitch-tiny", **options) -> Path:
        return write_tuned(tmp_path / name, right_of_ten(7), preset, **{"rows": ROWS, **options})

    cases = [
        ([dense], {}, r"are one run: give two"),
        (
            [other("rate", base_learning_rate=0.1)],
            {},
            r"differ in train.base_learning_rate \(0.001 and 0.1\)",
        ),
        (
            [other("seed", seed=1, steps=80)],
            {},
            r"train.seed \(0 and 1\), train.steps \(160 and 80\)",
        ),
        (
            [other("decay", optimizer="adamw", weight_decay=0.1)],
            {},
            r"weight_decay \((None|0.0) and 0.1\)",
        ),
        (
            [other("float", dtype="float32", z_loss=0)],
            {},
            r"dtype \(bfloat16 and float32\), train.z_loss",
        ),
        ([other("parts", microbatches=2)], {}, r"microbatches \(1 and 2\)"),
        ([other("frozen", freeze="experts")], {}, r"freeze \(none and experts\)"),
        ([other("greedy", decodes=("greedy",))], {}, r"decoded differently \(labels and greedy\)"),
        ([other("fewer", rows={"de": 20})], {}, "predicted different rows"),
        ([other("origin", origin=100), other("b", origin=200)], {}, "at least 3, after step 0"),
        (
            [other("c", origin=100), other("d", origin=100)],
            {},
            "were both fine-tuned from step 100: give",
        ),
        (
            [other("e"), other("f", origin_hash="0" * 16, origin=1)],
            {},
            "began with different models",
        ),
        ([other("g"), other("h", origin=None)], {}, "did not begin with another run"),
        (from_steps(tmp_path)[1], {}, "from the steps of pretraining"),
        (
            [other("k")],
            {"scratch": [other("l", preset="mt5-tiny")]},
            "began with another run: give",
        ),
        ([other("m")], {"task": "none"}, "has no predictions of none: choose among toy"),
        ([other("n")], {"split": "validation"}, r"no predictions of validation \(test is there\)"),
    ]
    for candidates, options, message in cases:
        with pytest.raises(UserError, match=message):
            write_downstream([dense], candidates, tmp_path / "out", **options)
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
    scratch = write_tuned(tmp_path / "scratch", right_of_ten(5), rows=ROWS, origin=None)
    edit_config({"baseline": baseline, "candidate": candidate, "scratch": scratch}[role], **changed)
    with pytest.raises(UserError, match=rf"^--{role} \S+ (was )?{message}"):
        write_downstream([baseline], [candidate], tmp_path / "out", [scratch])


def test_what_a_larger_model_needs_otherwise_is_free(tmp_path):
    dense, _ = pair(tmp_path)
    free = {"data_parallel": 2, "remat": "full", "scan_layers": True, "loss_chunks": 4}
    sparse = write_tuned(tmp_path / "free", right_of_ten(8), "mswitch-tiny", rows=ROWS, **free)
    assert write_downstream([dense], [sparse], tmp_path / "out")["languages"] == len(ROWS)


def test_other_steps_of_pretraining_are_said(tmp_path):
    dense, _ = pair(tmp_path)
    later = write_tuned(tmp_path / "o", right_of_ten(8), "mswitch-tiny", rows=ROWS, origin=1600)
    write_downstream([dense], [later], tmp_path / "out")
    cautions = read(tmp_path / "out")[0]["summary"]["cautions"]
    assert (
        "mt5-tiny began with step 400 of its pretraining and mswitch-tiny with step 1,600: a "
        "difference may come from that." in cautions
    )


def test_runs_on_several_tasks_are_compared_on_one_of_them(tmp_path):
    runs = pair(tmp_path)
    several = {"config_hash": "both", "tasks": {"text": "a corpus", "reviews": "tasks"}}
    for run in runs:
        edit_config(run, examples=several)
    assert write_downstream(runs[:1], runs[1:], tmp_path / "out")["languages"] == len(ROWS)


def test_a_run_without_usable_predictions_is_refused(tmp_path):
    dense, sparse = pair(tmp_path)
    place = sparse / "predictions" / "toy"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            write_downstream([dense], [sparse], tmp_path / "out")

    path = place / "test-160-labels.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    refused(r"cannot read toy/test-160-labels.parquet as Parquet: remove")
    path.write_bytes(whole)
    (sparse / "selected.json").write_text('{"step": 80, "values": {}}')
    refused("predicted test with step 160, and step 80 is selected")
    (sparse / "predictions" / "other").mkdir()
    refused("has predictions of other, toy: give --task and one")
    (sparse / "_COMPLETED").unlink()
    refused("is still in training")
    with pytest.raises(UserError, match="is not a training run"):
        write_downstream([tmp_path], [sparse], tmp_path / "out")
    bare = write_tuned(tmp_path / "bare", wrong_model, rows=ROWS)
    for file in (bare / "predictions").rglob("*.*"):
        file.unlink()
    (bare / "predictions" / "toy").rmdir()
    with pytest.raises(UserError, match="has no predictions: run mswitch predict"):
        write_downstream([dense], [bare], tmp_path / "out")


def wrong_model(lang: str, row: int, answer: str) -> str:
    return wrong(answer)
