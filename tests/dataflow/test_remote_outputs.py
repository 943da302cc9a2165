"""Outputs on an object store: claimed, continued, refused, published with the marker last."""

import json

import pytest

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import (
    CLAIM,
    MANIFEST,
    MARKER,
    RemoteOutput,
    read_manifest,
    stage_output_anywhere,
)


def make(out: str, **config: object) -> RemoteOutput:
    with stage_output_anywhere(out, stage="corpus", config=config) as staged:
        assert isinstance(staged, RemoteOutput)
        return staged


def test_an_output_is_published_once(bucket):
    out = f"{bucket}/corpus/"
    staged = make(out, a=1)
    assert not staged.complete
    assert staged.out == f"{bucket}/corpus"
    assert storage.list_names(staged.out) == {CLAIM}
    storage.write_json(f"{staged.directory}/data/x.json", 1)
    with pytest.raises(UserError, match=f"not a finished corpus output \\(no {MARKER}"):
        read_manifest(out, "corpus")
    staged.publish({"shards": ["ü"]})
    assert storage.list_names(staged.out) == {MANIFEST, MARKER}
    manifest = json.loads(storage.read_bytes(f"{staged.out}/{MANIFEST}"))
    assert (manifest["shards"], manifest["config"]) == (["ü"], {"a": 1})
    assert read_manifest(out, "corpus")["shards"] == ["ü"]
    assert make(out, a=1).complete


def test_the_same_settings_continue(bucket):
    make(bucket, a=1)
    storage.write_json(f"{bucket}/data/x.json", 1)
    again = make(bucket, a=1)
    assert not again.complete
    assert storage.exists(f"{bucket}/data/x.json")


def test_other_settings_are_refused_while_it_is_made_and_when_it_is(bucket):
    staged = make(bucket, a=1)
    with pytest.raises(UserError, match="is being made with other settings"):
        make(bucket, a=2)
    staged.publish({})
    with pytest.raises(UserError, match=r"made with other settings or inputs \(changed: a\)"):
        make(bucket, a=2)


def test_a_killed_publication_is_continued(bucket):
    """The manifest stands, the marker does not: not data, but the same build."""
    staged = make(bucket, a=1)
    storage.write_json(f"{bucket}/{MANIFEST}", {"stage": "corpus"})
    again = make(bucket, a=1)
    assert not again.complete
    again.publish({})
    # Killed before the claim was removed: complete all the same.
    storage.write_json(f"{bucket}/{CLAIM}", {"config_hash": staged.hash})
    assert make(bucket, a=1).complete
    assert storage.list_names(bucket) == {MANIFEST, MARKER}


@pytest.mark.parametrize("name", ["notes.txt", "deep/er/notes.txt"])
def test_somebody_elses_files_are_refused(bucket, name):
    storage.write_json(f"{bucket}/{name}", "mine")
    with pytest.raises(UserError, match="holds files that are not corpus output"):
        make(bucket, a=1)
    assert storage.match(f"{bucket}/{CLAIM}") == []
