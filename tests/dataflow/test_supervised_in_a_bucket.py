"""A task, its rows and its examples on gs://: the bytes of a local build."""

from pathlib import Path

import pytest
from example_files import vocabulary
from supervised_files import ALL_KINDS, write_kinds, write_task
from trees import data_bytes, send

from mswitch.pipelines import storage
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.tasks.batches.examples import open_examples

CONFIG = SupervisedConfig(inputs_length=64, targets_length=24, drop_overlap=True)


@pytest.mark.slow
def test_a_task_in_a_bucket(tmp_path: Path, bucket):
    folder = tmp_path / "task"
    folder.mkdir()
    write_kinds(folder)
    write_task(folder, ALL_KINDS)
    model = tmp_path / "sentencepiece.model"
    model.write_bytes(vocabulary(1000))
    build_supervised(folder / "task.toml", model, tmp_path / "local", CONFIG)
    task = send(folder, f"{bucket}/task")
    out = f"{bucket}/reviews"
    for _ in range(2):
        build_supervised(f"{task}/task.toml", model, out, CONFIG)
    assert data_bytes(out) == data_bytes(tmp_path / "local")
    assert open_examples(out).languages == open_examples(tmp_path / "local").languages
    assert not [name for name in storage.list_names(out) if name.startswith("_rows")]
