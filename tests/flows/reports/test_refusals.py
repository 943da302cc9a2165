"""Runs and settings of which no report can be made: one line that names them, and the fix."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import edit_config, read_config

from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError


def drop_marker(runs):
    (runs[1] / "_COMPLETED").unlink()


def drop_evaluation(runs):
    (runs[0] / "eval" / "200.parquet").unlink()


def change_examples(runs):
    examples = read_config(runs[1])["examples"]
    edit_config(runs[1], examples={**examples, "config_hash": "0" * 16})


def change_seed(runs):
    edit_config(runs[1], train={**read_config(runs[1])["train"], "seed": 3})


def change_pack(runs):
    edit_config(runs[1], train={**read_config(runs[1])["train"], "pack": "next-fit"})


def change_mixture(runs):
    edit_config(runs[1], mixture={"alpha": 0.7})


def change_steps(runs):
    steps = read_config(runs[1])["eval_steps"]
    edit_config(runs[1], eval_steps=steps[1:])


def no_run(runs):
    (runs[0] / "config.json").unlink()


def imported(runs):
    config = read_config(runs[0])
    del config["flops_per_step"]
    (runs[0] / "config.json").write_text(json.dumps(config))


def marker_of_another_stage(runs):
    (runs[1] / "_COMPLETED").write_text('{"config_hash": "0"}')


def no_metrics(runs):
    (runs[0] / "metrics.jsonl").unlink()


def edit_table(path, **columns):
    table = pq.read_table(path).to_pydict()
    for name, change in columns.items():
        table[name] = change(table[name])
    pq.write_table(pa.table(table), path)


def other_documents(runs):
    for path in (runs[1] / "eval").iterdir():
        edit_table(path, document=lambda ids: [f"{id_}x" for id_ in ids])


def one_other_document(runs):
    edit_table(runs[1] / "eval" / "200.parquet", document=lambda ids: ["x", *ids[1:]])


def repeated_document(runs):
    for path in (runs[0] / "eval").iterdir():
        edit_table(path, document=lambda ids: [ids[1], *ids[1:]])


def diverged(runs):
    edit_table(runs[1] / "eval" / "200.parquet", nats=lambda nats: [float("nan"), *nats[1:]])


def missing_column(runs):
    path = runs[1] / "eval" / "200.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["target_bytes"]), path)


def no_documents(runs):
    path = runs[1] / "eval" / "200.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def torn_evaluation(runs):
    path = runs[1] / "eval" / "200.parquet"
    path.write_bytes(path.read_bytes()[:100])


def torn_metrics(runs):
    path = runs[1] / "metrics.jsonl"
    path.write_text(path.read_text()[:-10])


def metrics_of_no_step(runs):
    path = runs[0] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{}", *lines[3:]]) + "\n")


def evaluated_in(*dtypes):
    def change(runs):
        for run, dtype in zip(runs, dtypes, strict=True):
            for path in (run / "eval").iterdir():
                settings = {b"mswitch.evaluation": json.dumps({"dtype": dtype})}
                pq.write_table(pq.read_table(path).replace_schema_metadata(settings), path)

    return change


def too_few_steps(runs):
    for run in runs:
        edit_config(run, eval_steps=[1, 200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_marker, "--candidate .* has not finished training .* run the same command"),
        (drop_evaluation, r"--baseline .* is not evaluated \(no eval/200.parquet.* mswitch eval"),
        (change_examples, "different examples .* train both with the same --examples"),
        (change_seed, "different seed .* train both with the same options"),
        (change_pack, "different pack .* train both with the same options"),
        (evaluated_in("float32", "bfloat16"), "in float32 and bfloat16: .* with the same --dtype"),
        (change_mixture, "different mixtures: give both the same --mixture"),
        (change_steps, "evaluated at different steps .* the same --steps"),
        (no_run, "is not a training run .* give what `train --out` made"),
        (imported, "--baseline .* was not trained by mswitch .*lacks 'flops_per_step'"),
        (marker_of_another_stage, "_COMPLETED does not belong to a training run: remove it"),
        (no_metrics, "metrics.jsonl is missing or empty: restore it, or train the run again"),
        (other_documents, "evaluated on different documents: evaluate both"),
        (one_other_document, "200.parquet has other documents .* run mswitch evaluate"),
        (repeated_document, "has a document twice: .* run mswitch evaluate"),
        (diverged, "200.parquet .* not a number: the run diverged"),
        (missing_column, "200.parquet lacks the column 'target_bytes'"),
        (no_documents, "200.parquet has no documents: .* validation split"),
        (torn_evaluation, "cannot read eval/200.parquet"),
        (torn_metrics, "metrics.jsonl, line 200, is not JSON of a step"),
        (metrics_of_no_step, "metrics.jsonl, line 3, is not JSON of a step"),
        (too_few_steps, "evaluated at 2 steps, a speed-up needs at least 3"),
    ],
)
def test_runs_that_cannot_be_compared_are_named_with_the_fix(pair, tmp_path, damage, message):
    damage(pair)
    with pytest.raises(UserError, match=message) as error:
        write_report(*pair, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_compared_with_itself(pair, tmp_path):
    with pytest.raises(UserError, match=r"are both .*: give two runs, the dense one as baseline"):
        write_report(pair[0], pair[0].parent / "." / pair[0].name, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 10}, "--resamples must be at least 100, not 10"),
        ({"confidence": 1.0}, r"--confidence must be at least 0\.5 and below 1, not 1\.0"),
    ],
)
def test_settings_without_meaning_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ReportConfig(**options)
