"""The whole chain on real text, as a user runs it."""

import csv
import itertools
import json
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest

from mswitch.flows.chains.demo import choose_sample
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import read_manifest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

RUNS = ("dense-seed-0", "sparse-seed-0")


def test_every_link_left_what_it_promises(demo, demo_steps):
    for stage in ("sample", "corpus", "vocabulary", "examples", "report"):
        assert read_manifest(demo / stage, stage)["stage"] == stage
    for run in RUNS:
        steps = [
            json.loads(line)["step"]
            for line in (demo / "runs" / run / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == list(range(1, demo_steps + 1))
        assert list((demo / "runs" / run / "tensorboard").glob("events.out.tfevents.*"))


def test_the_corpus_accounts_for_every_record(demo):
    stats = json.loads((demo / "corpus" / "stats.json").read_text())
    stages = stats["stages"]
    for stage in stages:
        assert stage["in"] == stage["out"] + sum(stage["dropped"].values()), stage
    for before, after in itertools.pairwise(stages):
        assert after["in"] == before["out"]
    written = sum(s["documents"] for splits in stats["languages"].values() for s in splits.values())
    assert stages[-1]["out"] == written
    rows = sum(pq.read_metadata(p).num_rows for p in (demo / "corpus" / "data").rglob("*.parquet"))
    assert rows == written


def test_90_languages_have_five_pages_of_validation_that_are_never_in_training(demo):
    pages = {split: defaultdict(set) for split in ("train", "validation")}
    for path in (demo / "corpus" / "data").rglob("*.parquet"):
        split = path.name.partition("-")[0]
        table = pq.read_table(path, columns=["id", "lang"])
        assert set(table["lang"].to_pylist()) <= {path.parent.name}
        pages[split][path.parent.name] |= set(table["id"].to_pylist())
    train, validation = (set().union(*pages[split].values()) for split in pages)
    assert not train & validation
    # Where there are so few pages, five are more than one in five.
    assert len(validation) < len(train)
    assert sum(len(ids) >= 5 for ids in pages["validation"].values()) >= 90


def test_both_models_saw_the_same_frozen_validation_documents(demo, demo_steps):
    keys = ["lang", "document", "target_tokens", "target_bytes"]
    evaluations = {
        run: sorted((demo / "runs" / run / "eval").glob("*.parquet"), key=lambda p: int(p.stem))
        for run in RUNS
    }
    first, second = evaluations.values()
    assert [p.name for p in first] == [p.name for p in second]
    assert int(first[-1].stem) == demo_steps
    tables = [pq.read_table(path, columns=keys) for path in (*first, *second)]
    assert all(table.equals(tables[0]) for table in tables)
    assert min(pq.read_table(first[-1])["nats"].to_pylist()) > 0


def test_the_report_covers_at_least_90_languages(demo):
    report = json.loads((demo / "report" / "report.json").read_text())
    named = {row["lang"] for row in report["languages"]}
    assert len({languages()[code].base for code in named}) >= 90
    summary = report["summary"]
    assert summary["languages_in_headline"] >= 85
    assert f"{summary['languages_in_headline']} languages" in summary["verdict"]
    page = (demo / "report" / "report.html").read_text()
    with (demo / "report" / "per_language.csv").open(newline="") as file:
        assert {row["lang"] for row in csv.DictReader(file)} == named
    for code in named:
        assert languages()[code].name in page
    for row in report["languages"]:
        if row["documents"] < 5:
            assert row["step_speedup_ci"] is None


def test_the_fine_tuned_models_are_compared_with_the_majority_beside(demo):
    place = demo / "language-of"
    found = json.loads((place / "downstream" / "downstream.json").read_text())
    accuracy = found["results"][0]
    assert (accuracy["metric"], accuracy["decode"]) == ("accuracy", "labels")
    majority = accuracy["everything"]["majority"]
    assert 0 < majority < 10
    # What is learned in the demo's own time, `make test-learning` shows.
    for run, score in zip(RUNS, accuracy["everything"]["models"], strict=True):
        [path] = (place / run / "predictions" / "language_of").glob("*.parquet")
        rows = pq.read_table(path).to_pylist()
        right = [row["prediction"] == row["targets"] for row in rows]
        assert score["value"] == pytest.approx(100 * sum(right) / len(right), abs=1e-4)
    counts = Counter(row["targets"] for row in rows)
    assert majority == pytest.approx(100 * max(counts.values()) / len(rows), abs=1e-4)
    assert [run["reads"] for run in found["runs"]] == ["test read 1 time"] * 2
    report = json.loads((demo / "report" / "report.json").read_text())
    [section] = report["downstream"]
    assert section["cautions"][0].startswith("The labels are the corpus’ own")
    assert (demo / "report" / section["path"]).is_file()
    page = (demo / "report" / "report.html").read_text()
    assert f'href="./{section["path"]}"' in page
    assert section["cautions"][0] in page


def test_run_again_it_does_nothing_and_says_so(demo, run_demo):
    def state():
        return {
            path: path.stat().st_mtime_ns
            for path in demo.rglob("*")
            if path.is_file() and path.suffix != ".lock"
        }

    before = state()
    done = run_demo(demo, "--json")
    assert done.returncode == 0, done.stderr
    assert state() == before
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["reused"]
    assert "already complete" in done.stderr
    assert "`mswitch demo --out runs/gain` shows one" in done.stderr
    assert done.stderr.splitlines()[-1] == f"[demo] open {demo / 'report' / 'report.html'}"


def test_other_settings_are_refused_in_one_line(demo, run_demo, demo_steps):
    other = run_demo(demo, steps=demo_steps + 1)
    assert other.returncode == 2
    assert f"fine-tuned after {demo_steps} steps: give --steps {demo_steps}, or" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_directory_with_something_else_is_refused(tmp_path, run_demo):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    done = run_demo(tmp_path / "out")
    assert done.returncode == 2
    assert "contains other files: choose another --out" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_default_text_goes_through_the_chain_with_both_models_side_by_side(tmp_path, run_demo):
    out = tmp_path / "demo"
    done = run_demo(out, "--sample", "translations")
    if "check the network" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["summary"]["languages_in_headline"] >= 80
    measured = json.loads((out / "held-out.json").read_text())
    assert measured["all"]["recurring_share"] <= 0.02
    assert "train dense-seed-0 and token-32-seed-0" in done.stderr
    assert "three seeds take" in done.stderr
    assert done.stderr.splitlines()[-1] == f"[demo] open {out / 'report' / 'report.html'}"


def test_without_a_network_the_demo_says_what_its_text_cannot_show(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    assert choose_sample(tmp_path / "demo") == "gflanguages"
    assert "are too small to show a gain" in capsys.readouterr().err
    (tmp_path / "demo").mkdir(exist_ok=True)
    (tmp_path / "demo" / "chain.json").write_text('{"asked": {"sample": "debian"}}')
    assert choose_sample(tmp_path / "demo") == "debian"
