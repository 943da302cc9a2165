"""What report.json says of every language."""

import json
import statistics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_reports import make_report, visible_words
from report_runs import Scenario, edit_config, read_config, write_runs

from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages


def test_every_language_has_a_row_and_flops_and_time_scale_the_steps(full):
    rows = full.by_lang()
    assert set(rows) == {code for code, language in languages().items() if language.mc4}
    for lang, row in rows.items():
        assert row["name"] == languages()[lang].name
        assert row["censored"] in ("none", "lower", "upper")
        assert row["delta"] == pytest.approx(row["candidate_nll"] - row["baseline_nll"], abs=2e-5)
        enough = row["documents"] >= 5
        assert (row["step_speedup_ci"] is not None) == enough
        assert (row["delta_ci"] is not None) == enough
        assert row["in_headline"] == enough
        assert row["step_speedup"] != 0
        assert row["flop_speedup"] == pytest.approx(row["step_speedup"] * 1.02 / 1.09, rel=1e-4)
        # Median of 0.2 and 0.31 plus 0 to 4 ms; the 40 s of the first two steps do not count.
        assert row["wall_speedup"] == pytest.approx(row["step_speedup"] * 0.202 / 0.312, rel=1e-3)


def test_languages_that_mc4_lacks_have_rows_like_others(tmp_path):
    documents = {"en": 8, "hr": 7, "bs": 6, "sr-Latn": 8}
    runs = write_runs(tmp_path, Scenario(documents, 3.0, steps=200))
    made = make_report(runs, tmp_path / "report", resamples=100)
    rows = made.by_lang()
    assert set(rows) == set(documents)
    assert rows["sr-Latn"]["name"] == "Serbian (Latin)"
    assert all(row["in_headline"] for row in rows.values())


def test_the_true_speed_ups_are_found(full):
    rows = full.by_lang()
    # The fixtures' truth: median exp(1.3) = 3.7, and four languages set by hand.
    found = full.report["summary"]["median_step_speedup"]
    assert found["ci"][0] < 3.67 < found["ci"][1]
    shown = [row["step_speedup"] for row in rows.values() if row["in_headline"]]
    assert found["value"] == pytest.approx(statistics.median(shown), rel=1e-5)
    assert rows["az"]["censored"] == rows["fi"]["censored"] == "upper"
    assert rows["sw"]["censored"] == rows["ja"]["censored"] == "lower"
    assert rows["sw"]["step_speedup"] == pytest.approx(1000)
    assert full.report["summary"]["languages_on_a_plateau"] == 2
    assert rows["eo"]["baseline_steps"] < 200


def test_near_duplicates_count_once_and_the_page_says_how_many(pair, tmp_path):
    alone = make_report(pair, tmp_path / "alone")
    assert alone.report["summary"]["near_duplicates"] is None
    limit = "Near-duplicate documents count as independent"
    assert limit in alone.html
    for path in [path for run in pair for path in run.glob("eval/*")]:
        table = pq.read_table(path).sort_by([("lang", "ascending"), ("document", "ascending")])
        table = table.append_column("cluster", pa.array(range(table.num_rows), pa.int64()))
        copies = table.set_column(
            1, "document", pa.array([f"{each}x" for each in table["document"].to_pylist()])
        )
        pq.write_table(pa.concat_tables([table, copies]), path)
    doubled = make_report(pair, tmp_path / "doubled")
    assert doubled.report["summary"]["near_duplicates"] == 16
    assert "in their language: 16 of 32 validation documents." in doubled.html
    assert limit not in doubled.html
    counts = ("documents", "target_tokens", "target_bytes", "near_duplicates")
    for lang, row in alone.by_lang().items():
        found = doubled.by_lang()[lang]
        assert found == {**row, **{name: found[name] for name in counts}}
        assert [found[name] for name in counts[:3]] == [2 * row[name] for name in counts[:3]]
        assert found["near_duplicates"] == row["documents"]
    # Two documents of Yoruba and their copies are not four.
    assert found["lang"] == "yo"
    assert not found["in_headline"]
    for figure in ("median_step_speedup", "improved", "share_at_least_4x"):
        assert doubled.report["summary"][figure] == alone.report["summary"][figure]


def test_clusters_are_read_where_the_first_checkpoints_lack_them(pair, tmp_path):
    """A run that was evaluated in part before there were clusters, by two seeds."""
    last = pair[0] / "eval" / "200.parquet"
    table = pq.read_table(last)
    clusters = pa.array([max(place, 1) for place in range(table.num_rows)], pa.int64())
    pq.write_table(table.append_column("cluster", clusters), last)
    assert make_report(pair, tmp_path / "out").report["summary"]["near_duplicates"] == 1


def test_compiling_steps_do_not_count_as_training_time(pair, tmp_path):
    for run, secs in zip(pair, ([40, 40, 0.2, 0.3], [70, 70, 0.5, 0.5]), strict=True):
        lines = [
            json.dumps({"step": step, "train/step_secs": taken})
            for step, taken in enumerate(secs, start=1)
        ]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    made = make_report(pair, tmp_path / "out")
    assert made.report["method"]["wall_factor"] == pytest.approx(0.25 / 0.5)


def test_times_on_different_devices_are_not_compared(pair, tmp_path):
    edit_config(pair[1], device="TPU v5p")
    made = make_report(pair, tmp_path / "out")
    assert {row["wall_speedup"] for row in made.report["languages"]} == {None}
    assert made.report["summary"]["median_wall_speedup"] is None
    assert "not timed on the same device" in made.html
    cells = [visible_words(row[-1]) for row in made.page.iterfind(".//tbody/tr[@data-lang]")]
    assert cells == ["n/a"] * 3


def test_an_untimed_report_depends_on_no_machines_speed(pair, tmp_path):
    for name, faster in (("slow", 1), ("fast", 2)):
        for run in pair:
            lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
            timed = [each | {"train/step_secs": each["train/step_secs"] / faster} for each in lines]
            (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in timed))
        write_report(*pair, tmp_path / name, timed=False)
    for file in ("report.json", "report.html", "per_language.csv"):
        assert (tmp_path / "slow" / file).read_bytes() == (tmp_path / "fast" / file).read_bytes()
    rows = json.loads((tmp_path / "fast" / "report.json").read_text())["languages"]
    assert {row["wall_speedup"] for row in rows} == {None}
    with pytest.raises(UserError, match="made with other settings or inputs"):
        write_report(*pair, tmp_path / "fast")


def test_a_language_that_was_not_trained_on_stays_out(pair, tmp_path):
    for run in pair:
        trained = read_config(run)["languages"]
        edit_config(run, languages={lang: trained[lang] for lang in ("sw", "yo")})
    made = make_report(pair, tmp_path / "out")
    assert made.by_lang()["de"]["in_headline"] is False
    assert made.report["summary"]["languages_without_training_text"] == 1
    assert made.report["summary"]["pooled"]["languages"] == 2
    assert "no training text" in made.html


def test_an_undefined_speed_up_is_not_zero(tmp_path):
    runs = write_runs(tmp_path, Scenario({"de": 6, "yo": 6}, 1.0))
    for run in runs:
        for path in (run / "eval").iterdir():
            table = pq.read_table(path).to_pydict()
            # `yo` gets worse with every step.
            table["nats"] = [
                100 + int(path.stem) if lang == "yo" else nats
                for lang, nats in zip(table["lang"], table["nats"], strict=True)
            ]
            pq.write_table(pa.table(table), path)
    made = make_report(runs, tmp_path / "out")
    row = made.by_lang()["yo"]
    assert (row["step_speedup"], row["step_speedup_ci"]) == (None, None)
    assert row["in_headline"] is False
    cells = dict(made.table_rows())["yo"]
    assert [visible_words(cell) for cell in cells[8:]] == ["n/a"] * 3
    assert all(cell.get("data-v") is None for cell in cells[8:])


def test_languages_are_in_thirds_by_how_much_text_they_have(tmp_path):
    speed_ups = {
        **dict.fromkeys(("ar", "bg", "cs", "da", "de"), 3.0),
        **dict.fromkeys(("en", "es", "fi", "fr", "he"), 1.5),
        **dict.fromkeys(("it", "ja", "ko", "nl", "pl", "sw"), 2.0),
    }
    runs = write_runs(tmp_path, Scenario(dict.fromkeys(speed_ups, 9), speed_ups))
    tokens = {1.5: 900, 2.0: 1_200_000, 3.0: 70_000}
    for run in runs:
        before = read_config(run)["languages"]
        texts = {
            lang: {**of, "train_tokens": tokens[speed_ups[lang]] + at}
            for at, (lang, of) in enumerate(before.items())
        }
        edit_config(run, languages=texts)
    made = make_report(runs, tmp_path / "out")
    found = made.report["sizes"]
    assert [each["languages"] for each in found] == [5, 6, 5]
    medians = [each["median_step_speedup"] for each in found]
    assert [round(2 * each["value"]) / 2 for each in medians] == [1.5, 3.0, 2.0]
    assert all(each["ci"][0] <= each["value"] <= each["ci"][1] for each in medians)
    low, high = found[0]["train_tokens"]
    assert 900 <= low < high < 1000
    section = made.html.split('id="sizes-h"')[1].split("</section>")[0]
    assert section.count('<th scope="row">') == 3
    assert "1.2 million" in section
