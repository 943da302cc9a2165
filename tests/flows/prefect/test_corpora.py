"""Corpora that flows build and add to, and the gate of their vocabularies."""

import json

import pytest
from job_world import write_record

from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.record import Record, read_record
from mswitch.flows.prefect.flows.corpus import has_dump, make_build_job, read_build_options
from mswitch.flows.prefect.flows.examples import check_limit
from mswitch.flows.prefect.operators_toml import Dataflow, Operators
from mswitch.pipelines.errors import UserError


def test_the_gate_names_the_worst_language():
    rows = [
        {"lang": "de", "unknown_share": 0.001},
        {"lang": "sw", "unknown_share": 0.2},
        {"lang": "th", "unknown_share": None},
    ]
    check_limit(rows, "unknown_share", 0.2, "max_unknown_share")
    with pytest.raises(UserError, match=r"1 of 3 languages .* above 0.1, the most sw with 0.2"):
        check_limit(rows, "unknown_share", 0.1, "max_unknown_share")


def test_a_corpus_knows_the_dumps_it_has(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    manifest = {
        "stage": "corpus",
        "inputs": [{"path": "../../crawls/CC-MAIN-2024-10/wet/a.gz"}],
        "additions": [{"inputs": [{"path": "../../crawls/CC-MAIN-2024-18.wet-2/wet/b.gz"}]}],
    }
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    (corpus / "_COMPLETED").write_text("")

    assert has_dump(corpus, "CC-MAIN-2024-10")
    assert has_dump(corpus, "CC-MAIN-2024-18")
    assert not has_dump(corpus, "CC-MAIN-2024-1")
    with pytest.raises(UserError, match="does not exist"):
        has_dump(tmp_path / "none", "CC-MAIN-2024-10")


def test_an_addition_takes_the_options_of_the_build(tmp_path):
    out = tmp_path / "corpus"
    with pytest.raises(UserError, match="was not built by flow corpus"):
        read_build_options(out)
    words = ("--input=a.gz", f"--out={out}", "--min-lines=1", "--languages=de", "--append")
    job = Job(("corpus", "build", *words, "--", "--project=p"), out)
    write_record(Record(job, {"launcher": "local"}))

    assert read_build_options(out) == ["--min-lines=1", "--languages=de"]
    by_hand = Job(("corpus", "build", "--input", "a.gz", "--out", str(out)), out)
    write_record(Record(by_hand, {"launcher": "local"}))
    with pytest.raises(UserError, match="was not built by flow corpus"):
        read_build_options(out)


def test_a_build_on_dataflow_goes_to_its_bucket_and_is_found_there(tmp_path):
    options = ["--min-lines=1", "--runner=dataflow"]
    place = tmp_path / "corpora" / "a"
    with pytest.raises(
        UserError, match=r"dataflow needs storage and options in \[dataflow\] of op"
    ):
        make_build_job(["gs://b/x"], place, options, Operators(), append=False)
    dataflow = Dataflow(storage="gs://b/mswitch/", options=("--project=p",))
    operators = Operators(storage=tmp_path, dataflow=dataflow)
    assert operators.locate_output("corpora", "a") == place
    job = make_build_job(["gs://b/x"], place, options, operators, append=False)
    assert (job.out, job.path) == ("gs://b/mswitch/corpora/a", place)
    out = "--out=gs://b/mswitch/corpora/a"
    assert job.argv[2:] == ("--input=gs://b/x", out, *options, "--", "--project=p")

    write_record(Record(job, {"launcher": "local"}))

    assert read_record(place).job == job
    assert operators.locate_output("corpora", "a") == job.out
    assert read_build_options(place) == options
