"""Which share of the gain students keep: oracles, refusals, and the page."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import Scenario, edit_config, read_config, write_runs

from mswitch.flows.reports.distillation import measure_share, write_distillation
from mswitch.flows.reports.headline import measure_language, pool
from mswitch.flows.reports.intervals import ReportConfig, percentiles, spread_documents
from mswitch.flows.reports.pairs import pair_seed_losses
from mswitch.flows.reports.runs import read_evaluated_run
from mswitch.pipelines.errors import UserError

LANGUAGES = ("de", "en", "fi", "sw", "tr", "zh")
SCENARIO = Scenario(dict.fromkeys(LANGUAGES, 12), 4.0, noise=0.05)
SMALL = ReportConfig(resamples=300)


def student_of(runs: tuple[Path, Path], out: Path, kept=0.3, *, noise=0.0, seed=0, **taught):
    """A run whose losses lie between those of dense and sparse, nearer to dense."""
    dense, sparse = runs
    shutil.copytree(dense, out)
    generator = np.random.default_rng(0)
    for path in (out / "eval").iterdir():
        ours, theirs = (pq.read_table(run / "eval" / path.name) for run in runs)
        nats = np.array(ours["nats"]) * (1 - kept) + np.array(theirs["nats"]) * kept
        nats *= 1 + noise * generator.uniform(-1, 1, len(nats))
        table = ours.set_column(ours.column_names.index("nats"), "nats", pa.array(nats))
        pq.write_table(table, path)
    teacher = {
        "path": "../candidate",
        "config_hash": read_config(sparse)["config_hash"],
        "step": 1000,
        "soft_weight": 0.25,
        "temperature": 1.0,
        "init": True,
        "gather": "none",
        **taught,
    }
    train = {**read_config(out)["train"], "seed": seed}
    edit_config(out, teacher=teacher, train=train, config_hash=f"{len(str(out)):015d}{seed}")
    return out


def changed(run: Path, out: Path, **changes) -> Path:
    edit_config(shutil.copytree(run, out), **changes)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    return write_runs(tmp_path_factory.mktemp("runs"), SCENARIO)


@pytest.fixture(scope="module")
def student(runs, tmp_path_factory) -> Path:
    return student_of(runs, tmp_path_factory.mktemp("student") / "run")


@pytest.fixture(scope="module")
def long(runs, tmp_path_factory) -> Path:
    """The dense model after twice the steps, which are worth 1.2 of the gain."""
    out = student_of(runs, tmp_path_factory.mktemp("long") / "run", 1.2)
    config = read_config(out)
    steps = [2 * step for step in config["eval_steps"]]
    edit_config(out, teacher=None, eval_steps=steps, train={**config["train"], "steps": steps[-1]})
    for path in sorted((out / "eval").iterdir(), key=lambda path: -int(path.stem)):
        path.rename(path.with_stem(str(2 * int(path.stem))))
    return out


def compare(runs, students, out: Path, long=()):
    """What distillation.json holds, of a baseline and a teacher or several."""
    dense, sparse = ([run] if isinstance(run, Path) else run for run in runs)
    students = [students] if isinstance(students, Path) else students
    write_distillation(dense, sparse, students, out, SMALL, long)
    return json.loads((out / "distillation.json").read_text())


def test_a_student_between_both_keeps_its_share_in_every_language(runs, student, tmp_path):
    out = tmp_path / "report"
    data = compare(runs, student, out)
    [one] = data["students"]
    assert one["compression"] == pytest.approx(1 - 582.4 / 7775)
    for figures in (one["pooled"], *one["languages"].values()):
        # Documents and languages are drawn alike for all three, so no draw changes the share.
        assert figures["share"]["value"] == pytest.approx(0.3)
        assert figures["share"]["ci"] == pytest.approx([0.3, 0.3])
        assert figures["gain"]["ci"][0] < figures["gain"]["value"] < figures["gain"]["ci"][1]
        assert figures["kept"]["value"] == pytest.approx(0.3 * figures["gain"]["value"], rel=1e-4)
    assert len(one["languages"]) == len(LANGUAGES)
    assert data["summary"]["verdict"] == (
        "The student “distilled dense” keeps 30% of what “32 experts, learned router” gained over "
        "“dense” over 6 trained languages (95% interval 30% to 30%), with 93% fewer parameters"
    )
    page = (out / "distillation.html").read_text()
    assert "Swahili" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    again = write_distillation([runs[0]], [runs[1]], [student], out, SMALL)
    assert again["reused"]
    assert again["students"] == [{"name": one["name"], "pooled": one["pooled"]}]


def test_intervals_of_gains_are_as_wide_as_a_report_of_the_pair_has_them(runs, student, tmp_path):
    [one] = compare(runs, student, tmp_path / "report")["students"]
    pair = tuple(read_evaluated_run(run, "baseline") for run in runs)
    steps = np.array(pair[0].steps, float)
    results = [measure_language(seeds, steps, True, SMALL) for seeds in pair_seed_losses([pair])]
    low, high = pool(results, steps, SMALL).delta.ci
    assert one["pooled"]["gain"]["ci"] == pytest.approx([-high, -low], rel=1e-4)
    for result in results:
        tokens = result.losses.tokens
        gains = result.drawn[0, :, -1] - result.drawn[1, :, -1]
        units = tokens.sum() ** 2 / (tokens**2).sum()
        ci = percentiles(spread_documents(gains, -result.delta.value, units, 0.95), 0.95)
        gain = one["languages"][result.losses.lang]["gain"]
        assert gain["ci"] == pytest.approx(ci, rel=1e-4)


@pytest.mark.parametrize(
    ("scenario", "kept", "noise", "verdict"),
    [
        (
            {"speed_ups": 1.0, "noise": 0.5},
            0.3,
            0,
            "There is nothing to keep: .* may not be better",
        ),
        ({"speed_ups": 0.25}, 0.3, 0, "There is nothing to keep: “32 .*” is not better than"),
        ({"documents": {"de": 12, "sw": 3}}, 0.3, 0, "Too little to judge"),
        ({"documents": {"en": 12}}, 0.3, 0, "The student .* keeps 30% .* in English"),
        ({}, -0.26, 0, r"did worse than “dense” over 6 .* interval [\d.]+ to [\d.]+\)$"),
        ({}, -0.01, 0.3, "^No clear difference: the student “distilled dense” did worse than"),
    ],
)
def test_the_verdict_follows_the_intervals(tmp_path, scenario, kept, noise, verdict):
    runs = write_runs(tmp_path, dataclasses.replace(SCENARIO, **scenario))
    student = student_of(runs, tmp_path / "student", kept, noise=noise)
    data = compare(runs, student, tmp_path / "report")
    [one], found = data["students"], data["summary"]["verdict"]
    assert re.search(verdict, found)
    for figures in (one["pooled"], *one["languages"].values()):
        gain = figures["gain"]
        sure = gain["ci"] is not None and gain["ci"][0] > 0
        assert (figures["share"] is not None) == sure
    assert ("%" in found) == (one["pooled"]["share"] is not None or "keeps" in found)


def test_a_student_that_is_larger_than_its_teacher_has_no_fewer_parameters(runs, student, tmp_path):
    large = changed(student, tmp_path / "large", parameters=9_000_000_000)
    data = compare(runs, large, tmp_path / "report")
    assert data["summary"]["verdict"].endswith("interval 30% to 30%)")
    assert "-16%" not in (tmp_path / "report" / "distillation.html").read_text()


def test_the_same_report_follows_from_runs_whose_data_and_teacher_have_moved(
    runs, student, tmp_path
):
    compare(runs, student, tmp_path / "report")
    config, places = read_config(student), {"path": "/else", "paths": {"text": "/else"}}
    moved = changed(
        student,
        tmp_path / "moved",
        teacher={**config["teacher"], "path": "/else"},
        examples={**config["examples"], **places},
    )
    given = [runs[0]], [runs[1]], [moved]
    assert write_distillation(*given, tmp_path / "report", SMALL)["reused"]


def test_students_that_differ_stand_side_by_side(runs, student, tmp_path):
    soft = student_of(runs, tmp_path / "soft", 0.03, soft_weight=1.0, init=False)
    data = compare(runs, [soft, student], tmp_path / "report")
    shares = {one["name"]: one["pooled"]["share"]["value"] for one in data["students"]}
    assert shares == {
        "distilled dense, init False, soft weight 1.0": pytest.approx(0.03),
        "distilled dense, init True, soft weight 0.25": pytest.approx(0.3),
    }
    verdict = data["summary"]["verdict"]
    assert "init True, soft weight 0.25” keeps 30%" in verdict
    assert verdict.endswith("the best of 2 students, which the interval does not consider")


def test_what_as_many_steps_alone_gain_stands_beside(runs, student, long, tmp_path):
    out = tmp_path / "report"
    data = compare(runs, student, out, [long])
    beside = data["long_baseline"]
    assert beside["name"] == "dense, 2,000 steps"
    for figures in (beside["pooled"], *beside["languages"].values()):
        assert figures["share"]["value"] == pytest.approx(1.2)
    assert data["summary"]["verdict"].endswith("itself gains 120% of that (120% to 120%)")
    assert "dense, 2,000 steps: share of the gain" in (out / "distillation.html").read_text()
    with pytest.raises(UserError, match="changed: long-baseline"):
        compare(runs, student, out)


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory):
    """Baselines and teachers of the seeds 0 to 2."""
    root = tmp_path_factory.mktemp("seeds")
    pairs = []
    for seed in range(3):
        made = write_runs(root / str(seed), dataclasses.replace(SCENARIO, train_seed=seed))
        for run in made:
            edit_config(run, config_hash=f"{read_config(run)['config_hash'][:15]}{seed}")
        pairs.append(made)
    return pairs


@pytest.mark.parametrize("seeds", [(0, 1, 2), (4, 4, 4)])
def test_seeds_are_means_and_widen_the_interval(of_seeds, tmp_path, seeds):
    """A student of one seed goes with its teacher whatever that one's."""
    students = [
        student_of(pair, tmp_path / f"student {n}", 0.2 + n / 10, seed=seeds[n])
        for n, pair in enumerate(of_seeds)
    ]
    runs = list(zip(*of_seeds, strict=True))
    data = compare(runs, students, tmp_path / "report")
    [one] = data["students"]
    share = one["pooled"]["share"]
    assert share["value"] == pytest.approx(0.3, abs=0.01)
    low, high = share["ci"]
    assert low < 0.25
    assert high > 0.35
    assert (data["runs"]["teacher"]["seeds"], one["seeds"]) == ([0, 1, 2], [*seeds])
    more = student_of(of_seeds[0], tmp_path / "one more", seed=6)
    for given in (students[:2], [*students, more]):
        with pytest.raises(UserError, match="--student: give one for each --teacher, or several"):
            compare(runs, given, tmp_path / "other")


def test_a_student_and_a_long_baseline_may_have_another_seed(runs, long, tmp_path):
    student = student_of(runs, tmp_path / "student", seed=7)
    train = {**read_config(long)["train"], "seed": 5}
    of_five = changed(long, tmp_path / "long", train=train, config_hash="5" * 16)
    data = compare(runs, student, tmp_path / "report", [of_five])
    [one] = data["students"]
    assert one["pooled"]["share"]["value"] == pytest.approx(0.3)
    assert (one["seeds"], data["long_baseline"]["seeds"]) == ([7], [5])
    assert data["summary"]["seeds"] == (
        "Seeds: 0 of the teacher, 7 of “distilled dense”, 5 of “dense, 2,000 steps”. "
        "Intervals do not include the variation between seeds."
    )
    assert data["summary"]["seeds"] in (tmp_path / "report" / "distillation.html").read_text()


def test_students_of_several_seeds_may_have_one_teacher(runs, tmp_path):
    students = [
        student_of(runs, tmp_path / f"{seed}", 0.2 + seed / 10, seed=seed) for seed in range(3)
    ]
    data = compare(runs, students, tmp_path / "report")
    [one] = data["students"]
    low, high = one["pooled"]["share"]["ci"]
    assert low < 0.25 < one["pooled"]["share"]["value"] < 0.35 < high
    assert data["summary"]["seeds"].startswith("Seeds: 0 of the teacher, 0, 1, 2 of “distilled")


def test_what_cannot_be_compared_is_refused(runs, student, long, tmp_path):
    dense, sparse = runs
    train, model = (read_config(student)[part] for part in ("train", "model"))
    steps = read_config(long)["eval_steps"]

    def made(name: str, run: Path = student, **changes) -> Path:
        return changed(run, tmp_path / name, **changes)

    others = made("others")
    for path in (others / "eval").iterdir():
        pq.write_table(pq.read_table(path)[1:], path)
    wide = made("wide", long, model={**model, "d_model": 1024})
    short = made("short", long, eval_steps=steps[:-1])
    of_other = student_of(runs, tmp_path / "of other", config_hash="0" * 16)
    early = student_of(runs, tmp_path / "early", step=200)
    batch = made("batch", train={**train, "batch_size": 64})
    cases = [
        ([others], [], "--student .*others were evaluated on different documents"),
        ([dense], [], "--student .*baseline has no teacher: give a run of mswitch distill"),
        ([sparse], [], "has no teacher: give a run of mswitch distill"),
        ([of_other], [], "--student .*other had another teacher than --teacher .*candidate"),
        ([early], [], "learned from step 200 of --teacher .*, which ended at 1,000"),
        (
            [batch],
            [],
            r"--baseline .* and --student .*batch differ in train.batch_size \(32 and 64\)",
        ),
        ([student, made("twin")], [], r"are the same model with the same seed \(0\) and teacher"),
        ([student], [dense], "are both"),
        ([student], [short], "for 1,262 steps, but .* for 2,000 together: train it with --steps"),
        ([student], [wide], r"--long-baseline .*wide differ in model.d_model \(768 and 1024\)"),
        ([student], [long, wide], "differ in more than their seed .* one model as --long-baseline"),
    ]
    for given, beside, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            compare(runs, given, tmp_path / "out", beside)
        assert "\n" not in str(refused.value)
        assert "--candidate" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_share_of_independent_noise_has_the_width_that_theory_says():
    """To first order: variance (1 - s)^2 of the baseline, s^2 of the teacher, 1 of the student."""
    generator = np.random.default_rng(0)
    truth, error, gain = np.array([1.636, 1.444, 1.580]), 0.005, 0.192
    drawn = truth + error * generator.standard_normal((20_000, 1, 3))
    found = measure_share(truth[None], drawn, ReportConfig(20_000))
    share = (truth[0] - truth[2]) / gain
    width = 1.96 * error / gain * np.sqrt((1 - share) ** 2 + share**2 + 1)
    assert found["share"].value == pytest.approx(share)
    np.testing.assert_allclose(found["share"].ci, (share - width, share + width), atol=0.005)
