"""What is shown of a pair that trains, as Markdown."""

import base64
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from report_runs import Scenario, edit_config, read_config, write_runs

from flows.report.live import live_markdown
from pipelines.errors import UserError


def image_of(markdown):
    """The SVG, and the length of its URI."""
    [uri] = re.findall(r"\((data:image/svg\+xml;base64,[^)]+)\)", markdown)
    return base64.b64decode(uri.partition(",")[2]).decode(), len(uri)


def table_of(markdown):
    """The rows of the table, header and rule left out."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def keep_evaluations(run, steps):
    (run / "_COMPLETED").unlink(missing_ok=True)
    for path in (run / "eval").iterdir():
        if int(path.stem) not in steps:
            path.unlink()


def write_metrics(run, losses, **others):
    with (run / "metrics.jsonl").open("w") as file:
        for step, loss in enumerate(losses, start=1):
            line = {"step": step, "train/loss": loss, "train/gradient_norm": 1.0}
            line |= {name: values[step - 1] for name, values in others.items()}
            file.write(json.dumps(line) + "\n")


def warnings_of(markdown):
    return [line.removeprefix("- ") for line in markdown.partition("**Warnings**")[2].split("\n- ")]


def test_all_languages_fit_in_a_small_figure_and_a_table(full_pair):
    markdown = live_markdown(*full_pair)
    svg, size = image_of(markdown)
    assert size <= 60_000
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Validation loss, mean of 107 languages" in svg
    assert "Training loss" in svg
    assert len(table_of(markdown)) == 107
    assert "**Languages at step 1,000**" in markdown
    assert "No warnings." in markdown
    assert "step 1,000 of 1,000, training loss 2.261" in markdown


def test_the_table_is_of_the_newest_common_step(pair):
    steps = read_config(pair[0])["eval_steps"]
    keep_evaluations(pair[0], steps[:9])
    keep_evaluations(pair[1], steps[:5])
    markdown = live_markdown(*pair)
    assert f"**Languages at step {steps[4]}**" in markdown
    rows = {row[0]: row for row in table_of(markdown)}
    assert list(rows) == ["German", "Swahili", "Yoruba"]
    assert rows["German"][1] == "8"
    assert rows["German"][5].endswith("×")
    assert rows["Yoruba"][5] == "n/a"  # two documents


def test_a_target_that_is_not_reached_is_a_bound(tmp_path):
    runs = write_runs(tmp_path, Scenario({"de": 6}, {"de": 0.3}, steps=200))
    [row] = table_of(live_markdown(*runs))
    assert row[5].startswith("&lt;")


def test_it_grows_from_nothing(pair, tmp_path):
    """From two directories that are not there, by way of one, to runs without an evaluation."""
    nothing = tmp_path / "nothing", tmp_path / "yet"
    assert live_markdown(*nothing).startswith("Neither model has begun")
    one = live_markdown(pair[0], nothing[1])
    assert "candidate: not begun" in one
    assert "data:image" not in one
    for run in pair:
        keep_evaluations(run, ())
        (run / "metrics.jsonl").unlink()
    begun = live_markdown(*pair)
    assert "step 0 of 200" in begun
    assert "data:image" not in begun
    for run in pair:
        write_metrics(run, [3.0, 2.9, 2.8])
    markdown = live_markdown(*pair)
    svg, _ = image_of(markdown)
    assert "Training loss" in svg
    assert "Validation loss" not in markdown + svg
    assert 'class="ref"' not in svg  # a single step is no target


def test_a_line_that_is_being_written_does_not_count(pair):
    keep_evaluations(pair[0], ())
    write_metrics(pair[0], [3.0, 2.9, 2.8])
    with (pair[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/')
    assert "step 3 of 200" in live_markdown(*pair)


def test_bad_steps_are_warned_of(pair):
    generator = np.random.default_rng(0)
    losses = (3 + 0.01 * generator.standard_normal(190)).tolist()
    assert "No warnings." in live_markdown(pair[0], pair[0].parent / "none")
    write_metrics(pair[0], [*losses[:150], 9.0, *losses[151:]])
    spike = live_markdown(*pair)
    assert "mt5-base, step 151: the loss jumped to 9.000 (1 bad step in the last 190)" in spike
    edit_config(pair[0], train={**read_config(pair[0])["train"], "loss_spike": 1e6})
    assert "No warnings." in live_markdown(*pair)
    write_metrics(pair[0], [*losses[:150], None, *losses[151:]])
    assert "mt5-base, step 151: the loss is not a number" in live_markdown(*pair)
    norms = {"train/gradient_norm": [1.0] * 189 + [None], "train/skipped": [0] * 188 + [1, 1]}
    write_metrics(pair[0], losses, **norms)
    found = live_markdown(*pair)
    assert "step 190: the gradient is not a number" in found
    assert "2 updates left out in the last 190 steps" in found


@pytest.mark.parametrize(("share", "warned"), [(0.09, False), (0.12, True)])
def test_many_dropped_tokens_are_warned_of(pair, share, warned):
    # What was dropped long ago does not matter.
    drops = {
        "router/drop_fraction_encoder": [0.9] * 80 + [0.01] * 100,
        "router/drop_fraction_decoder": [0.9] * 80 + [share] * 100,
    }
    write_metrics(pair[1], [3.0] * 180, **drops)
    markdown = live_markdown(*pair)
    line = "the decoder’s experts dropped 12% of their tokens in the last 100 steps"
    assert (line in markdown) == warned
    assert "encoder’s" not in markdown


def test_old_faults_are_forgotten(pair):
    write_metrics(pair[0], [None, *[3.0] * 1000])
    assert "No warnings." in live_markdown(*pair)


def test_names_are_no_markup(tmp_path):
    hostile = "<img src=x>|`*_[a](b)\n# x\u202e'y"
    documents = {"de": 6, hostile: 6}
    truth = dict.fromkeys(documents, 3.0)
    runs = write_runs(tmp_path, Scenario(documents, truth, steps=100, preset_names=(hostile, "b")))
    markdown = live_markdown(*runs)
    assert "<img" not in markdown
    assert "'y" in markdown
    assert "\u202e" not in markdown
    assert "\n# x" not in markdown
    assert "\\|\\`\\*\\_\\[a\\](b)" in markdown
    svg, _ = image_of(markdown)
    ElementTree.fromstring(svg)


def test_runs_that_cannot_be_compared_are_refused(pair):
    edit_config(pair[1], mixture={"alpha": 0.7})
    with pytest.raises(UserError, match="different mixtures"):
        live_markdown(*pair)


def test_it_changes_nothing(pair, tmp_path):
    before = shutil.copytree(tmp_path / "candidate", tmp_path / "before")
    assert live_markdown(*pair) == live_markdown(*pair)
    for path in before.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (pair[1] / path.relative_to(before)).read_bytes()
