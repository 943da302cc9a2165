"""Which share of the gain students keep: oracles, refusals, and the page."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import Scenario, edit_config, read_config, write_runs

from mswitch.flows.reports.distillation import measure_share, write_distillation
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.numbers import number
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import DISTILLATION_POINTS, VARIABLE

LANGUAGES = ("de", "en", "fi", "sw", "tr", "zh")
SCENARIO = Scenario(dict.fromkeys(LANGUAGES, 12), dict.fromkeys(LANGUAGES, 4.0), noise=0.05)
SMALL = ReportConfig(resamples=300)


def student_of(runs: tuple[Path, Path], out: Path, kept: float, **taught) -> Path:
    """A run whose losses lie between those of dense and sparse, nearer to dense."""
    dense, sparse = runs
    shutil.copytree(dense, out)
    for path in (out / "eval").iterdir():
        ours, theirs = (pq.read_table(run / "eval" / path.name) for run in runs)
        nats = np.array(ours["nats"]) * (1 - kept) + np.array(theirs["nats"]) * kept
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
    edit_config(out, teacher=teacher, config_hash=f"{len(out.name):016d}")
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    return write_runs(tmp_path_factory.mktemp("runs"), SCENARIO)


@pytest.fixture(scope="module")
def student(runs, tmp_path_factory) -> Path:
    return student_of(runs, tmp_path_factory.mktemp("student") / "run", 0.3)


def made(out: Path) -> dict:
    return json.loads((out / "distillation.json").read_text())


def test_a_student_between_both_keeps_its_share_in_every_language(runs, student, tmp_path):
    out = tmp_path / "report"
    found = write_distillation([runs[0]], [runs[1]], [student], out, SMALL)
    data = made(out)
    [one] = data["students"]
    assert one["compression"] == pytest.approx(1 - 582.4 / 7775)
    for figures in (one["pooled"], *one["languages"].values()):
        # Documents and languages are drawn alike for all three, so no draw changes the share.
        assert figures["share"]["value"] == pytest.approx(0.3)
        assert figures["share"]["ci"] == pytest.approx([0.3, 0.3])
        assert figures["gain"]["ci"][0] < figures["gain"]["value"] < figures["gain"]["ci"][1]
        assert figures["kept"]["value"] == pytest.approx(0.3 * figures["gain"]["value"], rel=1e-4)
    assert len(one["languages"]) == len(LANGUAGES)
    assert (
        "The distilled mt5-base keeps 30% of what mswitch-base gained over mt5-base over 6 trained "
        "languages"
    ) in found["verdict"]
    assert "with 93% fewer parameters" in found["verdict"]
    page = (out / "distillation.html").read_text()
    assert "30%" in page
    assert "Swahili" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert write_distillation([runs[0]], [runs[1]], [student], out, SMALL) == {
        **found, "reused": True,
    }  # fmt: skip


def test_a_gain_that_may_be_zero_has_no_share(student, tmp_path):
    scenario = dataclasses.replace(SCENARIO, speed_ups=dict.fromkeys(LANGUAGES, 1.0), noise=0.5)
    runs = write_runs(tmp_path, scenario)
    of_these = student_of(runs, tmp_path / "student", 0.3)
    out = tmp_path / "report"
    found = write_distillation([runs[0]], [runs[1]], [of_these], out, SMALL)
    [one] = made(out)["students"]
    assert one["pooled"]["share"] is None
    assert "There is nothing to keep: mswitch-base may not be better" in found["verdict"]
    assert "%" not in found["verdict"]


def test_a_teacher_that_is_worse_is_said_to_be(tmp_path):
    scenario = dataclasses.replace(SCENARIO, speed_ups=dict.fromkeys(LANGUAGES, 0.25))
    runs = write_runs(tmp_path, scenario)
    of_these = student_of(runs, tmp_path / "student", 0.3)
    out = tmp_path / "report"
    found = write_distillation([runs[0]], [runs[1]], [of_these], out, SMALL)
    gain = made(out)["students"][0]["pooled"]["gain"]
    assert gain["ci"][1] < 0
    assert found["verdict"] == (
        "There is nothing to keep: mswitch-base is not better than mt5-base over 6 trained "
        f"languages (gain of {gain['value']:.3f} nats a token, interval {gain['ci'][0]:.3f} to "
        f"{gain['ci'][1]:.3f})"
    )
    assert "nats a token better" not in (out / "distillation.html").read_text()


def test_few_documents_and_languages_have_no_interval_and_no_share(tmp_path):
    scenario = dataclasses.replace(SCENARIO, documents={"de": 12, "sw": 3})
    runs = write_runs(tmp_path, scenario)
    of_these = student_of(runs, tmp_path / "student", 0.3)
    out = tmp_path / "report"
    found = write_distillation([runs[0]], [runs[1]], [of_these], out, SMALL)
    [one] = made(out)["students"]
    assert one["languages"]["de"]["share"]["value"] == pytest.approx(0.3)
    assert one["languages"]["sw"]["share"] is None
    assert one["languages"]["sw"]["gain"]["ci"] is None
    assert one["pooled"]["share"] is None
    assert "Too little to judge" in found["verdict"]


def test_one_language_is_judged_alone(tmp_path):
    scenario = dataclasses.replace(SCENARIO, documents={"en": 12})
    runs = write_runs(tmp_path, scenario)
    of_these = student_of(runs, tmp_path / "student", 0.3)
    found = write_distillation([runs[0]], [runs[1]], [of_these], tmp_path / "report", SMALL)
    assert (
        "The distilled mt5-base keeps 30% of what mswitch-base gained over mt5-base in English"
        in found["verdict"]
    )


def test_a_student_that_is_larger_than_its_teacher_has_no_fewer_parameters(runs, student, tmp_path):
    large = shutil.copytree(student, tmp_path / "large")
    edit_config(large, parameters=9_000_000_000)
    found = write_distillation([runs[0]], [runs[1]], [large], tmp_path / "report", SMALL)
    assert found["verdict"].endswith("interval 30% to 30%)")
    assert "-16%" not in (tmp_path / "report" / "distillation.html").read_text()


def test_the_same_report_follows_from_runs_whose_data_and_teacher_have_moved(
    runs, student, tmp_path
):
    out = tmp_path / "report"
    write_distillation([runs[0]], [runs[1]], [student], out, SMALL)
    moved = shutil.copytree(student, tmp_path / "moved")
    config = read_config(moved)
    places = {"path": "/elsewhere", "paths": {"text": "/elsewhere"}}
    edit_config(
        moved,
        teacher={**config["teacher"], "path": "/elsewhere"},
        examples={**config["examples"], **places},
    )
    assert write_distillation([runs[0]], [runs[1]], [moved], out, SMALL)["reused"]


def test_students_that_differ_stand_side_by_side(runs, student, tmp_path):
    soft = student_of(runs, tmp_path / "soft", 0.03, soft_weight=1.0, init=False)
    out = tmp_path / "report"
    write_distillation([runs[0]], [runs[1]], [soft, student], out, SMALL)
    students = made(out)["students"]
    shares = {one["name"]: one["pooled"]["share"]["value"] for one in students}
    assert sorted(shares.values()) == pytest.approx([0.03, 0.3])
    assert min(shares, key=shares.get) == "distilled mt5-base (init False, soft_weight 1.0)"
    verdict = made(out)["summary"]["verdict"]
    assert "(init True, soft_weight 0.25) keeps 30%" in verdict
    assert verdict.endswith("the best of 2 students, for which the interval does not allow")


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


def test_what_as_many_steps_alone_gain_stands_beside(runs, student, long, tmp_path):
    out = tmp_path / "report"
    sides = [[runs[0]], [runs[1]], [student]]
    found = write_distillation(*sides, out, SMALL, [long])
    beside = made(out)["long_baseline"]
    assert beside["name"] == "mt5-base, 2,000 steps"
    for figures in (beside["pooled"], *beside["languages"].values()):
        assert figures["share"]["value"] == pytest.approx(1.2)
    assert found["long_baseline"]["share"]["ci"] == pytest.approx([1.2, 1.2])
    assert found["verdict"].endswith(
        "fewer parameters. Trained for as many steps as teacher and student together, mt5-base "
        "itself gains 120% of that (120% to 120%)"
    )
    page = (out / "distillation.html").read_text()
    assert "mt5-base, 2,000 steps: share of the gain" in page
    with pytest.raises(UserError, match="changed: long-baseline"):
        write_distillation(*sides, out, SMALL)


def test_a_long_baseline_is_the_baseline_with_the_steps_of_both(runs, student, long, tmp_path):
    config = read_config(long)
    short, wide = (shutil.copytree(long, tmp_path / name) for name in ("short", "wide"))
    edit_config(short, eval_steps=config["eval_steps"][:-1])
    edit_config(wide, model={**config["model"], "d_model": 1024})
    cases = [
        ([runs[0]], "are both"),
        ([short], "for 1,262 steps, and .* for 2,000 together: train it with --steps 2000"),
        ([wide], r"--long-baseline .*wide differ in model.d_model \(768 and 1024\)"),
        (
            [long, wide],
            "differ in more than their seed .*give the runs of one model as --long-baseline",
        ),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message):
            write_distillation([runs[0]], [runs[1]], [student], tmp_path / "out", SMALL, given)


def test_seeds_are_means_and_widen_the_interval(tmp_path):
    sides = ([], [], [])
    for seed, kept in enumerate((0.2, 0.3, 0.4)):
        root = tmp_path / str(seed)
        scenario = dataclasses.replace(SCENARIO, train_seed=seed)
        runs = write_runs(root, scenario)
        for run in runs:
            edit_config(run, config_hash=f"{read_config(run)['config_hash'][:15]}{seed}")
        for side, run in zip(sides, (*runs, student_of(runs, root / "s", kept)), strict=True):
            side.append(run)
    out = tmp_path / "report"
    write_distillation(*sides, out, SMALL)
    [one] = made(out)["students"]
    share = one["pooled"]["share"]
    assert share["value"] == pytest.approx(0.3, abs=0.01)
    low, high = share["ci"]
    assert low < 0.25
    assert high > 0.35
    assert made(out)["runs"]["teacher"]["seeds"] == [0, 1, 2]
    with pytest.raises(UserError, match="--student: give one for each --teacher, or several of"):
        write_distillation(sides[0], sides[1], sides[2][:2], tmp_path / "fewer", SMALL)


def with_seed(run: Path, out: Path, seed: int) -> Path:
    """The run, as if it had been trained with another seed."""
    shutil.copytree(run, out)
    train = {**read_config(out)["train"], "seed": seed}
    edit_config(out, train=train, config_hash=f"{len(out.name):015d}{seed}")
    return out


def test_a_student_and_a_long_baseline_may_have_another_seed(runs, student, long, tmp_path):
    sides = [[runs[0]], [runs[1]], [with_seed(student, tmp_path / "student", 7)]]
    out = tmp_path / "report"
    write_distillation(*sides, out, SMALL, [with_seed(long, tmp_path / "long", 5)])
    data = made(out)
    [one] = data["students"]
    assert one["pooled"]["share"]["value"] == pytest.approx(0.3)
    assert (one["seeds"], data["long_baseline"]["seeds"]) == ([7], [5])
    assert data["summary"]["seeds"] == (
        "Seeds: 0 of the teacher, 7 of distilled mt5-base, 5 of mt5-base, 2,000 steps. How much "
        "another one would change is not in the intervals."
    )
    assert data["summary"]["seeds"] in (out / "distillation.html").read_text()


def test_students_of_several_seeds_may_have_one_teacher(runs, tmp_path):
    students = [
        with_seed(student_of(runs, tmp_path / f"made {seed}", kept), tmp_path / f"{seed}", seed)
        for seed, kept in enumerate((0.2, 0.3, 0.4))
    ]
    out = tmp_path / "report"
    write_distillation([runs[0]], [runs[1]], students, out, SMALL)
    [one] = made(out)["students"]
    low, high = one["pooled"]["share"]["ci"]
    assert low < 0.25 < one["pooled"]["share"]["value"] < 0.35 < high
    assert made(out)["summary"]["seeds"] == (
        "Seeds: 0 of the teacher, 0, 1, 2 of distilled mt5-base. How much another one of the "
        "teacher would change is not in the intervals."
    )
    alike = [student_of(runs, tmp_path / f"alike {n}", 0.3) for n in range(2)]
    with pytest.raises(UserError, match=r"are the same model with the same seed \(0\) and"):
        write_distillation([runs[0]], [runs[1]], alike, tmp_path / "other", SMALL)


def test_students_of_one_seed_go_with_their_teachers(tmp_path):
    sides = ([], [], [])
    for seed, kept in enumerate((0.2, 0.3, 0.4)):
        root = tmp_path / str(seed)
        runs = write_runs(root, dataclasses.replace(SCENARIO, train_seed=seed))
        for run in runs:
            edit_config(run, config_hash=f"{read_config(run)['config_hash'][:15]}{seed}")
        own = with_seed(student_of(runs, root / "s", kept), root / "of one seed", 4)
        for side, run in zip(sides, (*runs, own), strict=True):
            side.append(run)
    out = tmp_path / "report"
    write_distillation(*sides, out, SMALL)
    [one] = made(out)["students"]
    assert one["pooled"]["share"]["value"] == pytest.approx(0.3, abs=0.01)
    assert one["seeds"] == [4, 4, 4]
    more = with_seed(sides[2][0], tmp_path / "more", 6)
    with pytest.raises(UserError, match=r"--student: give one for each --teacher, or several of"):
        write_distillation(sides[0], sides[1], [*sides[2], more], tmp_path / "more students", SMALL)


@pytest.mark.parametrize(
    ("kept", "noise", "zero"), [(-0.26, 0.0, ""), (-0.01, 0.3, ", which includes zero")]
)
def test_a_student_that_lost_did_worse_than_the_baseline(runs, tmp_path, kept, noise, zero):
    student = student_of(runs, tmp_path / "student", kept)
    generator = np.random.default_rng(0)
    for path in (student / "eval").iterdir():
        table = pq.read_table(path)
        nats = np.array(table["nats"]) * (1 + noise * generator.uniform(-1, 1, table.num_rows))
        column = table.column_names.index("nats")
        pq.write_table(table.set_column(column, "nats", pa.array(nats)), path)
    out = tmp_path / "report"
    found = write_distillation([runs[0]], [runs[1]], [student], out, SMALL)
    figures = made(out)["students"][0]["pooled"]
    assert figures["share"]["value"] < 0
    low, high = (-end for end in reversed(figures["kept"]["ci"]))
    assert (low < 0) == bool(zero)
    by = f"{number(-figures['kept']['value'])} nats a token, 95% interval"
    assert found["verdict"] == (
        "The distilled mt5-base did worse than mt5-base over 6 trained languages (by "
        f"{by} {number(low)} to {number(high)}{zero})"
    )


def test_a_share_of_independent_noise_has_the_width_that_theory_says():
    """To first order: variance (1 - s)^2 of the baseline, s^2 of the teacher, 1 of the student."""
    generator = np.random.default_rng(0)
    truth, error, gain = np.array([1.636, 1.444, 1.580]), 0.005, 0.192
    drawn = truth + error * generator.standard_normal((20_000, 1, 3))
    found = measure_share(truth[None], drawn, 0.95, generator)
    share = (truth[0] - truth[2]) / gain
    width = 1.96 * error / gain * np.sqrt((1 - share) ** 2 + share**2 + 1)
    assert found["share"].value == pytest.approx(share)
    np.testing.assert_allclose(found["share"].ci, (share - width, share + width), atol=0.005)


def test_what_cannot_be_compared_is_refused(runs, student, tmp_path):
    dense, sparse = runs
    other = student_of(runs, tmp_path / "other", 0.3, config_hash="0" * 16)
    early = student_of(runs, tmp_path / "early", 0.3, step=200)
    longer = shutil.copytree(student, tmp_path / "longer")
    edit_config(longer, train={**read_config(longer)["train"], "batch_size": 64})
    unevaluated = shutil.copytree(student, tmp_path / "other documents")
    for path in (unevaluated / "eval").iterdir():
        pq.write_table(pq.read_table(path)[1:], path)
    cases = [
        (unevaluated, "--student .*other documents were evaluated on different documents"),
        (dense, "--student .*baseline has no teacher: give what mswitch distill made"),
        (sparse, "has no teacher: give what mswitch distill made"),
        (other, "--student .*other had another teacher than --teacher .*candidate"),
        (early, "learned from step 200 of --teacher .*, which ended at 1,000"),
        (longer, r"--baseline .* and --student .*longer differ in train.batch_size \(32 and 64\)"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            write_distillation([dense], [sparse], [given], tmp_path / "out", SMALL)
        assert "\n" not in str(refused.value)
        assert "--candidate" not in str(refused.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_while_it_is_published_it_is_written_by_the_next(runs, student, tmp_path):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    write_distillation([runs[0]], [runs[1]], [student], undisturbed, SMALL)
    places = ["--baseline", runs[0], "--teacher", runs[1], "--student", student, "--out", out]
    command = [sys.executable, "-m", "mswitch.flows.cli.main", "report", "distillation", *places]
    for point in DISTILLATION_POINTS:
        killed = subprocess.run(
            [*command, "--resamples", "300"], env={**os.environ, VARIABLE: point}, check=False
        )
        assert killed.returncode == -signal.SIGKILL
    assert write_distillation([runs[0]], [runs[1]], [student], out, SMALL)["reused"]
    for path in undisturbed.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
