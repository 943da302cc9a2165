"""`mswitch mixture`: the table of a mixture for an examples directory."""

import json
from pathlib import Path

import pytest
from processes import run_python

from mswitch.flows.cli.main import main
from mswitch.pipelines.outputs import stage_output
from mswitch.tasks.batches.mixture_table import describe_mixture
from mswitch.tasks.batches.mixtures import Mixture, mixtures
from mswitch.tasks.batches.multitask import open_task_mixture

RECORDS = {"de": 10_000, "en": 160_000, "iw": 625, "hr": 1, "ru": 16}


def write_examples(out: Path, records: dict[str, int]) -> Path:
    """What `mixture show` reads of an examples directory: its manifest."""
    languages: dict = {
        lang: {"train": {"records": count, "tokens": count * 1137, "documents": count // 2}}
        for lang, count in records.items()
    }
    languages["yo"] = {"validation": {"records": 3, "tokens": 9, "documents": 1}}
    with stage_output(out, stage="examples", config={}) as staged:
        staged.publish({"languages": languages})
    return out


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "examples", RECORDS)


def test_rates_epochs_and_warnings(examples):
    table = describe_mixture(
        open_task_mixture(examples, Mixture(alpha=0.5)), steps=100, batch_size=60
    )
    assert table["sequences"] == 6000
    rows = {row["lang"]: row for row in table["languages"]}
    assert list(rows) == ["en", "de", "iw", "ru", "hr"]
    assert rows["en"]["rate"] == pytest.approx(400 / (400 + 100 + 25 + 4 + 1))
    assert rows["de"]["sequences"] == pytest.approx(6000 * 100 / 530)
    assert rows["hr"]["epochs"] == pytest.approx(6000 / 530)
    assert rows["ru"]["epochs"] == pytest.approx(6000 * 4 / 530 / 16)
    assert [lang for lang, row in rows.items() if row["repeated"]] == ["hr"]
    assert (rows["iw"]["tokens"], rows["iw"]["documents"]) == (625 * 1137, 312)
    assert table["left_out"] == []
    (warning,) = table["warnings"]
    assert warning.startswith("1 of 5 languages are repeated more than 4 times (hr: 11.3)")
    assert warning.endswith("or choose a mixture with max_epochs")


def test_a_cap_of_four_warns_of_nothing_and_one_that_cannot_hold_does(examples):
    mixture = mixtures()["mc4.unimax.4"]
    table = describe_mixture(open_task_mixture(examples, mixture), steps=1000, batch_size=64)
    assert table["warnings"] == []
    assert table["left_out"] == ["hr"]
    assert max(row["epochs"] for row in table["languages"]) == pytest.approx(4)
    table = describe_mixture(open_task_mixture(examples, mixture), steps=100_000, batch_size=64)
    repeated, exceeded = table["warnings"]
    assert repeated.endswith("add text or train for fewer steps")  # it has max_epochs
    assert "no cap can hold" in exceeded
    assert len({round(row["epochs"], 6) for row in table["languages"]}) == 1


def test_json_is_one_object_on_the_last_line(examples, capsys, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[weights]\nde = 3\nru = 1\n")
    options = ["--mixture", str(file), "--steps", "10", "--batch-size", "8", "--json"]
    assert main(["mixture", "show", str(examples), *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["lang"]: row["rate"] for row in found["languages"]} == {"de": 0.75, "ru": 0.25}
    assert found["definition"]["weights"] == {"de": 3, "ru": 1}
    assert (found["steps"], found["batch_size"], found["sequences"]) == (10, 8, 80)
    assert found["left_out"] == ["en", "hr", "iw"]


def test_the_table_marks_what_is_repeated(examples, capsys):
    assert main(["mixture", "show", str(examples), "--steps", "100", "--batch-size", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mixture mswitch: 100 steps of 60 sequences"
    marked = {line.split()[0] for line in lines if line.endswith("!")}
    assert marked == {"hr", "ru"}
    assert lines[-1].startswith("warning: 2 of 5 languages are repeated more than 4 times (hr")


def test_names_are_listed(capsys):
    assert main(["mixture", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(listed) == set(mixtures())
    assert listed["mc4"] == "107 languages"
    assert listed["mc4.script.Thai"] == "  1 language".strip()
    assert main(["mixture", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["mixtures"]
    assert {row["name"]: row["languages"] for row in rows}["mc4.script.Hebr"] == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--mixture", "mc4.script.Cyrillic"], "did you mean 'mc4.script.Cyrl'?"),
        (["--mixture", "mc4.script.Thai"], "no training text in the mixture's languages (th)"),
        (["--mixture", "mc4.yo"], "the mixture names yo, but the examples have no training"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--batch-size", "-1"], "--batch-size must be at least 1, not -1"),
    ],
)
def test_misuse_is_explained(examples, capsys, options, complaint):
    assert main(["mixture", "show", str(examples), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert main(["mixture", "show", str(examples.parent)]) == 2
    assert "is not a finished examples output" in capsys.readouterr().err


def test_training_refuses_an_unknown_mixture_before_it_loads_jax(examples, tmp_path):
    code = (
        "import sys; from mswitch.flows.cli.main import main\n"
        f"code = main(['train', '--preset', 'mt5-tiny', '--examples', {str(examples)!r},"
        f" '--out', {str(tmp_path / 'run')!r}, '--mixture', 'mc5'])\n"
        "print(code, sorted({'jax', 'seqio', 'tensorflow', 'grain'} & sys.modules.keys()))"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "2 []"
    assert "unknown mixture 'mc5'" in done.stderr


def test_showing_a_mixture_loads_no_framework(examples):
    code = (
        "import sys; from mswitch.flows.cli.main import main\n"
        f"main(['mixture', 'show', {str(examples)!r}])\n"
        "heavy = {'jax', 'seqio', 'tensorflow', 'grain', 'apache_beam', 'pyarrow', 'prefect'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    assert run_python("-c", code).stdout.splitlines()[-1] == "[]"


def test_tasks_of_a_file_are_shown_by_leaf(tmp_path, capsys):
    write_examples(tmp_path / "text", {"de": 100, "ru": 900})
    write_examples(tmp_path / "reviews", {"de": 30, "sw": 10})
    file = tmp_path / "multitask.toml"
    file.write_text(
        '[tasks.text]\ndirectory = "text"\nvirtual = 60\nalpha = 0\n'
        '[tasks.reviews]\ndirectory = "reviews"\ncap = 20\nalpha = 1\nlanguages = ["de"]\n'
    )
    options = ["mixture", "show", "--tasks", str(file), "--steps", "10", "--batch-size", "80"]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["leaf"]: (row["rate"], row["epochs"]) for row in found["languages"]} == {
        "reviews/de": (0.25, pytest.approx(200 / 30)),
        "text/de": (0.375, 3),
        "text/ru": (0.375, pytest.approx(1 / 3)),
    }
    assert found["left_out"] == ["reviews/sw"]
    assert found["definition"]["tasks"]["reviews"]["cap"] == 20
    assert main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("!")] == ["reviews/de"]
    for wrong in (["mixture", "show"], [*options, str(tmp_path / "text")]):
        assert main(wrong) == 2
        assert "give an examples directory, or --tasks" in capsys.readouterr().err
