"""Reports over seeds, and of several candidates against one baseline."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from made_reports import assert_inert, make_report, parse_page
from report_runs import Scenario, edit_config, read_config, write_runs

from mswitch.flows.cli.main import main
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError

DOCUMENTS = {"de": 8, "en": 7, "fr": 6, "sw": 6, "yo": 6, "zu": 2}
SCENARIO = Scenario(DOCUMENTS, 3.0, steps=200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Baselines and candidates of seeds 0 to 2."""
    root = tmp_path_factory.mktemp("seeds")
    pairs = [
        write_runs(root / str(seed), dataclasses.replace(SCENARIO, train_seed=seed))
        for seed in range(3)
    ]
    return [list(side) for side in zip(*pairs, strict=True)]


@pytest.fixture
def runs(trained, tmp_path):
    """The same, to change."""
    return [
        [shutil.copytree(run, tmp_path / f"{run.name}-{seed}") for seed, run in enumerate(side)]
        for side in trained
    ]


@pytest.fixture
def other(runs, tmp_path):
    """A candidate of another model."""
    run = shutil.copytree(runs[1][0], tmp_path / "other")
    edit_config(run, model={**read_config(run)["model"], "experts": 4})
    return run


def test_it_is_of_the_average_of_the_seeds_reports(trained, tmp_path):
    made = make_report(trained, tmp_path / "all")
    alone = [
        make_report(pair, tmp_path / str(seed))
        for seed, pair in enumerate(zip(*trained, strict=True))
    ]
    for lang, row in made.by_lang().items():
        rows = [each.by_lang()[lang] for each in alone]
        speed_ups = [each["step_speedup"] for each in rows]
        assert row["step_speedup"] == pytest.approx(np.mean(speed_ups), rel=0.01)
        for field in ("baseline_nll", "candidate_nll", "delta"):
            assert row[field] == pytest.approx(np.mean([r[field] for r in rows]), abs=1e-5)
        assert row["documents"] == DOCUMENTS[lang]
        if row["documents"] >= 5:
            low, high = row["step_speedup_ci"]
            assert low < row["step_speedup"] < high
    median, alone_too = (each.report["summary"]["median_step_speedup"] for each in (made, alone[1]))
    assert median["seeds"][1] == pytest.approx(alone_too["value"], rel=1e-5)
    assert re.search(r"\(95%: [\d.]+ to [\d.]+; seeds [\d.]+, [\d.]+, [\d.]+\)\.$", made.verdict)
    assert made.report["runs"]["candidate"]["seeds"] == [0, 1, 2]
    assert "Each model was trained with 3 seeds" in made.html
    assert made.verdict == made.report["summary"]["verdict"]


def test_the_order_of_runs_does_not_matter(trained, tmp_path):
    made = make_report(trained, tmp_path / "one", resamples=100)
    turned = make_report(
        [[side[1], side[2], side[0]] for side in trained], tmp_path / "two", resamples=100
    )
    assert made.report == turned.report


def test_several_candidates_have_a_page_each_and_one_of_all(runs, other, tmp_path, capsys):
    baselines, candidates = runs
    command = ["report", "--out", str(tmp_path / "reports" / "out"), "--resamples", "100"]
    for run in baselines:
        command += ["--baseline", str(run)]
    for run in [*candidates, other]:
        command += ["--candidate", str(run)]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    out = tmp_path / "reports" / "out"
    report = json.loads((out / "report.json").read_text())
    names = [each["name"] for each in report["candidates"]]
    assert names == ["32 experts, learned router", "4 experts, learned router"]
    assert [each["run"]["seeds"] for each in report["candidates"]] == [[0, 1, 2], [0]]
    assert summary["verdict"] == report["summary"]["verdict"]
    page = parse_page((out / "report.html").read_text(encoding="utf-8"))
    rows = page.findall(".//tbody/tr[@data-lang]")
    assert len(rows) == len(DOCUMENTS)
    languages = {each["lang"]: each for each in report["languages"]}
    for row in rows:
        data = languages[row.get("data-lang")]
        shown = [cell.get("data-v") for cell in list(row)[5:]]
        enough = data["documents"] >= 5
        assert shown == [
            str(each["step_speedup"]) if enough else None for each in data["candidates"]
        ]
    pair = [each["path"] for each in report["candidates"]]
    assert pair == [
        "1-32-experts-learned-router/report.html",
        "2-4-experts-learned-router/report.html",
    ]
    for path in pair:
        assert f"./{path}" in {link.get("href") for link in page.iterfind(".//a")}
        assert (out / path).is_file()
    # The page of a candidate is that of a report of it alone, but for its name.
    alone = make_report(runs, tmp_path / "alone", resamples=100)
    below = json.loads((out / pair[0]).with_name("report.json").read_text())
    assert alone.report["languages"] == below["languages"]
    assert main(command) == 0
    assert "already complete" in capsys.readouterr().err
    assert write_index(tmp_path / "reports")["reports"] == 2


def test_candidates_in_training_are_compared_up_to_a_common_step(runs, other, tmp_path):
    baselines, candidates = runs
    (other / "_COMPLETED").unlink()
    steps = read_config(other)["eval_steps"]
    (other / "eval" / f"{steps[-1]}.parquet").unlink()
    pair = (baselines, [*candidates, other])
    made = make_report(pair, tmp_path / "out", unfinished=True, resamples=100)
    assert made.report["summary"]["verdict"].startswith(f"Up to step {steps[-2]} of 200: Median")
    assert "still in training" in made.html


HOSTILE = "../../</script><img src=x onerror=alert(1)>\"'&"


def test_hostile_names_stay_text_and_below_the_report(runs, tmp_path):
    [baseline, *_], [candidate, *_] = runs
    other = shutil.copytree(candidate, tmp_path / "other")
    edit_config(other, preset=HOSTILE)
    made = make_report((baseline, [candidate, other]), tmp_path / "out", resamples=100)
    assert_inert(made.page)
    assert HOSTILE in made.verdict
    below = sorted(path.name for path in made.out.iterdir() if path.is_dir())
    assert below == [
        "1-32-experts-learned-router-mswitch-base",
        "2-32-experts-learned-router-..-..-script-img-src-x-onerror-alert-1",
    ]


def two_baselines(baselines, candidates):
    edit_config(baselines[1], preset="mt5-large")
    return baselines, candidates


def other_documents(baselines, candidates):
    for run in (baselines[2], candidates[2]):
        shutil.rmtree(run / "eval")
    root = baselines[0].parent / "x"
    others = write_runs(root, dataclasses.replace(SCENARIO, seed=5))
    for run, other in zip((baselines[2], candidates[2]), others, strict=True):
        shutil.copytree(other / "eval", run / "eval")
    return baselines, candidates


def other_mixture(baselines, candidates):
    edit_config(candidates[1], mixture={"alpha": 1.0})
    return baselines, candidates


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (
            lambda baselines, candidates: (baselines, [*candidates, candidates[1]]),
            r"--candidate .*-1 and --candidate .*-1 are the same model .* seed \(1\)",
        ),
        (
            lambda baselines, candidates: (baselines[:2], candidates),
            "trained with seed 2, but no --baseline was: train one with",
        ),
        (two_baselines, r"--baseline .* differ in more than their seed \(preset\): give the runs"),
        (other_documents, "evaluated on different documents: evaluate all with the same"),
        (other_mixture, r"differ in mixture.alpha \(None and 1.0\)"),
    ],
)
def test_runs_that_do_not_fit_together_are_named(runs, tmp_path, choose, message):
    with pytest.raises(UserError, match=message) as error:
        write_report(*choose(*runs), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_no_candidate_needs_is_left_out_and_said(runs, tmp_path, capsys):
    baselines, candidates = runs
    edit_config(baselines[2], train={**read_config(baselines[2])["train"], "seed": 9})
    made = make_report((baselines, candidates[:2]), tmp_path / "out", resamples=100)
    assert "is left out: no --candidate has seed 9" in capsys.readouterr().err
    assert made.report["runs"]["baseline"]["seeds"] == [0, 1]


def test_figures_of_held_out_text_are_on_every_page_and_identify_it(runs, other, tmp_path):
    figures = {"languages": 6, "enough_documents": 50, "languages_with_enough": 0}
    text = {
        **figures,
        **{"source": "<b>.example", "source_share": 0.631, "median_source_share": 0.5},
        **{"recurring_share": 0.0414, "most_recurring": {"lang": "sw", "share": 0.19}},
    }
    baselines, candidates = runs
    few = ReportConfig(resamples=100)
    options = {"text": text, "replace": True}
    write_report(baselines, [*candidates, other], tmp_path / "out", few, **options)
    said = [
        "Languages with at least 50 held-out documents: 0 of 6.",
        "63% of the training text is from one source (<b>.example); in the median language the "
        "largest source has 50%. Of the held-out text 4.1% recurs in training text, by windows of "
        "40 bytes; most in Swahili, 19.0%.",
    ]
    places = [tmp_path / "out", *(tmp_path / "out").glob("[12]-*")]
    assert len(places) == 3
    for place in places:
        report = json.loads((place / "report.json").read_text())
        assert report["text"] == text
        assert report["summary"]["cautions"][-2:] == said
        page = parse_page((place / "report.html").read_text(encoding="utf-8"))
        shown = [each.text for each in page.iterfind(".//div[@class='caution']/p")]
        assert shown[-2:] == said
    # The same text does nothing; other figures of it make the report again.
    again = write_report(baselines, [*candidates, other], tmp_path / "out", few, **options)
    assert again["reused"]
    changed = {**options, "text": figures}
    assert not write_report(baselines, [*candidates, other], tmp_path / "out", few, **changed)[
        "reused"
    ]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["cautions"] == said[:1]
