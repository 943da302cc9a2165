"""Examples, a pair and a fine-tuned run in a bucket, by flows on a real Prefect server."""

import json

import corpus_files
import pytest
import task_files
from operators_server import served

from mswitch.flows.jobs.record import read_record
from mswitch.pipelines import storage

pytestmark = [pytest.mark.dataflow, pytest.mark.server, pytest.mark.timeout(1800)]

LABELS = ("left", "right", "middle")
PRESETS = {"baseline": "mt5-tiny", "candidate": "mswitch-tiny"}


@pytest.fixture
def server(tmp_path, bucket):
    corpus_files.write_corpus(tmp_path / "storage/corpora/sample", corpus_files.small_texts())
    with served(tmp_path, head=f'bucket = "{bucket}/mswitch"\n') as made:
        yield made


def test_all_goes_to_the_bucket_but_records_and_reports(server, bucket):
    top, pair = f"{bucket}/mswitch", server.storage / "pairs" / "short"
    vocabulary = {"character_coverage": 0.999}
    sizes = {"vocabulary_size": 1000, "inputs_length": 32}
    server.finish("examples-sample", **sizes, vocabulary=vocabulary)
    assert storage.exists(f"{top}/examples/sample/_COMPLETED")

    short = {"steps": 6, "training": {"batch_size": 2, "evaluations": 5}}
    server.finish("pretrain-pair-sample", name="short", **short)
    for name in PRESETS.values():
        run = f"{top}/pairs/short/{name}"
        assert storage.exists(f"{run}/_COMPLETED")
        assert storage.exists(f"{run}/eval/6.parquet")
        assert read_record(pair / name).job.out == run
        assert not (pair / name / "config.json").exists()
        progress = server.artifacts("progress")[f"train-short-{name}"]["description"]
        assert f"{name}: step 6 of 6" in progress
    shown = server.artifacts("markdown")
    assert "data:image/svg+xml;base64," in shown["report-short-report"]["data"]
    report = json.loads((pair / "report" / "report.json").read_text())
    assert report["summary"]["verdict"] == shown["verdict-short-report"]["data"]

    # What is there is found there, and nothing is done twice.
    server.finish("evaluate-run", run="pairs/short/mt5-tiny")
    runs = {side: f"pairs/short/{preset}" for side, preset in PRESETS.items()}
    server.finish("report-pair", name="again", **runs)
    assert (server.storage / "reports" / "again" / "report" / "report.html").is_file()
    assert len(read_record(pair / "mt5-tiny").attempts) == 1

    rows = [(f"group {n // 2}", f"which way {n}", LABELS[n % 3]) for n in range(12)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    with storage.fetch(f"{top}/examples/sample/vocabulary/sentencepiece.model") as model:
        toy = server.storage / "examples" / "toy"
        task_files.write_supervised(toy, {"de": splits}, model.read_bytes(), labels=LABELS)
    wanted = {
        "run": "pairs/short/mt5-tiny",
        "tasks": "toy",
        "steps": 4,
        "training": {"batch_size": 4, "eval_every": 2},
    }
    ended = server.finish("finetune-run", name="tuned", **wanted, predictions={"batch_size": 8})
    assert ended.state.message.startswith("accuracy on test of toy: ")
    assert storage.exists(f"{top}/finetuned/tuned/predictions/toy/test_reads.json")
    assert (server.storage / "finetuned" / "tuned-test" / "run.html").is_file()
