"""Runs and settings of which no report can be made: one line that names them, and the fix."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import edit_config, read_config

from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError

BASELINE, CANDIDATE = 0, 1


def config(role, **changes):
    return lambda runs: edit_config(runs[role], **changes)


def train(role, **changes):
    return lambda runs: edit_config(
        runs[role], train={**read_config(runs[role])["train"], **changes}
    )


def remove(role, name):
    return lambda runs: (runs[role] / name).unlink()


def rewrite(role, name, change):
    def damage(runs):
        (runs[role] / name).write_bytes(change((runs[role] / name).read_bytes()))

    return damage


def tables(role, pattern, change):
    def damage(runs):
        for path in runs[role].glob(pattern):
            pq.write_table(change(pq.read_table(path)), path)

    return damage


def column(name, change):
    def changed(table):
        values = pa.array(change(table[name].to_pylist()))
        return table.set_column(table.column_names.index(name), name, values)

    return changed


def evaluated_in(dtype):
    settings = {b"mswitch.evaluation": json.dumps({"dtype": dtype})}
    return lambda table: table.replace_schema_metadata(settings)


def evaluated_on(count):
    settings = {b"mswitch.evaluation": json.dumps({"max_documents": count})}
    return lambda table: table.replace_schema_metadata(settings)


def without(key):
    return lambda text: json.dumps(
        {name: value for name, value in json.loads(text).items() if name != key}
    ).encode()


def the_same_run(runs):
    shutil.rmtree(runs[1])
    runs[1].symlink_to(runs[0])


ONE = "eval/200.parquet"
AGAIN = "remove the run's eval/ and routing/ and run mswitch evaluate again"
FIX = ": train and evaluate both on the same examples, with the same options"
OTHER_EXAMPLES = {"config_hash": "0" * 16, "vocabulary_sha256": "c" * 64}
REFUSED = [
    (remove(1, "_COMPLETED"), "--candidate .* has not finished training .* run the same command"),
    (remove(0, ONE), r"--baseline .* is not evaluated \(no eval/200.parquet.* mswitch eval"),
    (
        config(1, examples=OTHER_EXAMPLES),
        r"examples.config_hash \(abababababababab and 00*\)" + FIX,
    ),
    (train(1, seed=3), r"differ in train.seed \(0 and 3\)" + FIX),
    (train(1, decay=40), r"differ in train.decay \(None and 40\)" + FIX),
    (train(1, pack="next-fit"), r"train.pack \(None and next-fit\)" + FIX),
    (train(1, batch_size=64, warmup_steps=9), r"differ in train.batch_size \(32 and 64\)" + FIX),
    (config(1, mixture={"alpha": 0.7}), r"mixture.alpha \(None and 0.7\)" + FIX),
    (config(1, eval_steps=[1, 2, 200]), r"evaluation.steps \(15 from 1 to 200 and 3 from 1"),
    (tables(0, "eval/*", evaluated_in("float32")), r"evaluation.dtype \(float32 and None\)" + FIX),
    (tables(0, "eval/*", evaluated_on(9)), r"evaluation.max_documents \(9 and None\)" + FIX),
    (remove(0, "config.json"), "is not a training run .* give what `train --out` made"),
    (
        rewrite(0, "config.json", without("flops_per_step")),
        "--baseline .* was not trained by mswitch .*lacks 'flops_per_step'",
    ),
    (
        rewrite(1, "_COMPLETED", lambda _: b'{"config_hash": "0"}'),
        "_COMPLETED does not belong to a training run: remove it",
    ),
    (remove(0, "metrics.jsonl"), "metrics.jsonl is missing or empty: restore it, or train the run"),
    (
        rewrite(1, "metrics.jsonl", lambda text: text[:-10]),
        "metrics.jsonl, line 200, is not JSON of a step",
    ),
    (
        rewrite(0, "metrics.jsonl", lambda text: b"{}\n" + text),
        "metrics.jsonl, line 1, is not JSON of a step",
    ),
    (
        tables(1, "eval/*", column("document", lambda ids: [f"{each}x" for each in ids])),
        "evaluated on different documents: evaluate both",
    ),
    (
        tables(1, ONE, column("document", lambda ids: ["x", *ids[1:]])),
        "200.parquet has other documents .* run mswitch evaluate",
    ),
    (
        tables(0, "eval/*", column("document", lambda ids: [ids[1], *ids[1:]])),
        "has a document twice: .* run mswitch evaluate",
    ),
    (
        tables(1, ONE, column("nats", lambda nats: [float("nan"), *nats[1:]])),
        "200.parquet .* not a number: the run diverged",
    ),
    (
        tables(1, ONE, lambda table: table.drop_columns(["target_bytes"])),
        f"200.parquet lacks the column 'target_bytes': {AGAIN}",
    ),
    (
        tables(1, ONE, lambda table: table.slice(0, 0)),
        "200.parquet has no documents: .* validation",
    ),
    (rewrite(1, ONE, lambda content: content[:100]), f"cannot read {ONE} as Parquet: {AGAIN}"),
    (
        tables(1, "routing/*", lambda table: table.drop_columns(["expert"])),
        "routing/200.parquet lacks the column 'expert'",
    ),
    (
        tables(1, "routing/*", lambda table: table.slice(0, 0)),
        "routing/200.parquet counts no tokens",
    ),
    (
        lambda runs: [edit_config(run, eval_steps=[1, 200]) for run in runs],
        "evaluated at 2 steps, but a speed-up needs at least 3",
    ),
    (the_same_run, "are both .*: give two runs, the dense one as baseline"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED, ids=[each for _, each in REFUSED])
def test_runs_that_cannot_be_compared_are_named_with_the_fix(pair, tmp_path, damage, message):
    damage(pair)
    with pytest.raises(UserError, match=message) as error:
        write_report(*pair, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


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
