"""Schedule, metrics file, checkpoints: what a run writes down, without training."""

import errno
import gc
import itertools
import json
import os
import pathlib
import shutil
import tracemalloc
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import train_child as child
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.util import event_pb2

from mswitch.models.hardware import find_peak_flops
from mswitch.models.training import checkpoint
from mswitch.models.training.checkpoint import (
    Checkpoints,
    _save_apart,
    _split_state,
    find_step,
    is_complete,
    list_complete_steps,
    restore_parameters,
)
from mswitch.models.training.evaluation_steps import space_steps
from mswitch.models.training.loop import Recorder
from mswitch.models.training.metrics import MetricsWriter, cut_metrics, select_written
from mswitch.models.training.optimizer import AdamMoments, FullMoment
from mswitch.models.training.run_files import BucketFiles, RunFiles
from mswitch.models.training.state import TrainState
from mswitch.pipelines.errors import UserError


def read(run: pathlib.Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@given(st.integers(1, 2_000_000), st.integers(1, 40))
def test_evaluation_steps_are_different_and_end_with_the_last(steps, count):
    made = space_steps(steps, count)
    assert len(made) == min(steps, count)
    assert made[-1] == steps
    assert made[0] >= 1
    assert all(one < other for one, other in itertools.pairwise(made))


def test_evaluation_steps_are_even_in_the_logarithm():
    made = space_steps(1_000_000)
    ratios = [other / one for one, other in itertools.pairwise(made)]
    assert max(ratios) / min(ratios) < 1.001
    assert made[0] == pytest.approx(1_000_000 / 64, rel=0.001)
    assert len(space_steps(24)) == 16


NO_STEPS = ["garbage", "{}", "[]", '{"step": null}', '{"step": "5"}', "\0\0"]


@pytest.mark.parametrize("rest", [*(f"{line}\n" for line in NO_STEPS), '{"step": 4, "train/lo'])
def test_what_follows_the_restored_step_is_cut_whatever_it_is(tmp_path, rest):
    metrics = {"train/loss": 1.0, "router/load": [[0.5, 0.5]]}
    with closing(MetricsWriter(tmp_path, 0)) as record:
        for step in (1, 2, 3):
            record.write(step, metrics)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(rest)
    with closing(MetricsWriter(tmp_path, 2, 5)) as record:
        assert record.history == [{"step": 1, **metrics}, {"step": 2, **metrics}]
        record.write(3, {"train/loss": 9.0})
    assert read(tmp_path) == [*record.history, {"step": 3, "train/loss": 9.0}]


@pytest.mark.parametrize("line", [*NO_STEPS, '{"step": 3}'])
def test_metrics_that_lack_a_step_are_refused(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    for step in (3, 2):
        with pytest.raises(UserError, match=rf"metrics.jsonl lacks steps up to {step}"):
            cut_metrics(tmp_path, step)
    cut_metrics(tmp_path, 1)
    assert path.read_text() == '{"step": 1}\n'


def test_vectors_are_in_every_line_and_matrices_in_every_hundredth(tmp_path):
    loads = np.array([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], np.float32)
    with closing(MetricsWriter(tmp_path, 0)) as record:
        for step in range(1, 202):
            metrics = {"train/loss": np.float32(np.nan), "router/layer_entropy": loads[:, 0]}
            record.write(step, select_written(step, {**metrics, "router/load": loads}))
    lines = read(tmp_path)
    assert all(line["train/loss"] is None for line in lines)
    assert all(line["router/layer_entropy"] == [0.25, 0.5] for line in lines)
    assert [line["step"] for line in lines if "router/load" in line] == [1, 100, 200]
    assert lines[99]["router/load"] == loads.tolist()


def test_tensorboard_gets_one_file_with_a_histogram_over_experts(tmp_path):
    loads = np.array([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], np.float32)
    with closing(MetricsWriter(tmp_path, 0)) as record:
        record.write(1, {"train/loss": 3.0, "router/load": loads})
    (file,) = (tmp_path / "tensorboard").iterdir()
    values = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        for value in event_pb2.Event.FromString(record).summary.value:
            values[value.tag] = value
    assert values["train/loss"].simple_value == 3.0
    histogram = values["router/load/1"].histo
    assert list(histogram.bucket_limit) == [1, 2, 3]
    assert list(histogram.bucket) == [0.5, 0.25, 0.25]


def test_peaks_are_known_by_the_names_jax_gives():
    assert find_peak_flops("TPU v5 lite") == 197e12
    assert find_peak_flops("TPU v5p") == 459e12
    assert find_peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert find_peak_flops("cpu") is None


def test_a_long_file_is_cut_in_place_in_little_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rest = ', "train/loss": 2.5, "x": "' + "y" * 900 + '"}\n'
    with open(path, "w") as file:
        file.writelines(f'{{"step": {step}{rest}' for step in range(1, 20_001))
        file.write("\0" * 300 + "\n" + '{"step": 20001, "tr')
    before = path.stat()
    tracemalloc.start()
    recent = cut_metrics(tmp_path, 19_990, 101)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line["step"] for line in recent] == [*range(19_890, 19_991)]
    assert peak < before.st_size / 4
    assert path.stat().st_ino == before.st_ino
    assert [line["step"] for line in read(tmp_path)] == [*range(1, 19_991)]


@pytest.fixture
def state() -> TrainState:
    return TrainState(
        {"a.kernel": jnp.arange(6.0).reshape(2, 3)},
        {"a.kernel": FullMoment(jnp.ones((2, 3)))},
        jnp.int32(5),
    )


@pytest.fixture
def like(state) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def save(run: pathlib.Path, state: TrainState, identity: str = "") -> Checkpoints:
    """Checkpoints of a run, of which there is one, of step 5."""
    checkpoints = Checkpoints(run / "checkpoints", (), identity)
    checkpoints.save(state, 5)
    checkpoints.wait()
    return checkpoints


def test_a_run_in_a_bucket_is_named_and_not_its_copy(tmp_path, state):
    files = RunFiles("gs://bucket/run", tmp_path)
    with pytest.raises(UserError, match=r"^gs://bucket/run has no checkpoint yet"):
        find_step(files, None)
    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=(2,))
    checkpoints.save(state, 2)
    checkpoints.wait()
    assert find_step(files, None) == find_step(files, 2) == 2
    with pytest.raises(UserError, match=r"^gs://bucket/run has no checkpoint of step 3: .* 2$"):
        find_step(files, 3)


def test_only_complete_checkpoints_count_and_leftovers_go(tmp_path, state, capsys):
    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=(2,))
    assert checkpoints.latest() is None
    for step in (2, 3, 5):
        checkpoints.save(state, step)
    checkpoints.wait()
    assert list_complete_steps(checkpoints.directory) == [2, 3, 5]  # nothing has judged 5 yet
    checkpoints.prune()
    assert list_complete_steps(checkpoints.directory) == [2, 5]  # 3 was only to resume from
    (checkpoints.directory / "9").mkdir()
    (checkpoints.directory / "7.orbax-checkpoint-tmp").mkdir()
    (checkpoints.directory / "5" / "parameters" / "_METADATA").rename(tmp_path / "aside")
    assert checkpoints.latest() == 2
    assert not is_complete(checkpoints.directory / "9")
    checkpoints.remove_leftovers()
    # What lost a part may be mended.
    (checkpoints.directory / "9").mkdir()
    checkpoints.remove_leftovers()
    names = sorted(path.name for path in checkpoints.directory.iterdir())
    assert names == ["2", "5.incomplete", "9.incomplete", "9.incomplete1"]
    assert (checkpoints.directory / "5.incomplete" / "optimizer").is_dir()
    assert "checkpoints/5 is not a complete checkpoint: it is" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"commit_timestamp_nsecs": null}'])
def test_a_damaged_description_is_of_no_complete_checkpoint(tmp_path, state, text):
    checkpoints = save(tmp_path, state)
    assert checkpoints.latest() == 5
    (checkpoints.directory / "5" / "_CHECKPOINT_METADATA").write_text(text)
    assert checkpoints.latest() is None


def test_what_is_not_ours_stays_among_the_checkpoints(tmp_path, state):
    checkpoints = save(tmp_path, state)
    shutil.copytree(checkpoints.directory / "5", checkpoints.directory / "5.keep")
    for name in (".nfs0001", ".DS_Store", "note", "8"):
        (checkpoints.directory / name).write_text("x")
    for name in (".3.removed", "7.orbax-checkpoint-tmp-1", "9"):
        (checkpoints.directory / name / "parameters").mkdir(parents=True)
    checkpoints.remove_leftovers()
    names = sorted(path.name for path in checkpoints.directory.iterdir())
    assert names == [".DS_Store", ".nfs0001", "5", "5.keep", "8", "9.incomplete", "note"]


@pytest.mark.parametrize("failing", ["5/_CHECKPOINT_METADATA", "5/optimizer/_METADATA"])
def test_a_file_system_that_fails_costs_no_checkpoint(tmp_path, state, monkeypatch, failing):
    checkpoints = save(tmp_path, state)

    def stale(method):
        def fail_once(self, *arguments, **options):
            if str(self).endswith(failing):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))
            return method(self, *arguments, **options)

        return fail_once

    with monkeypatch.context() as patch:
        for name in ("read_text", "stat"):
            patch.setattr(pathlib.Path, name, stale(getattr(pathlib.Path, name)))
        with pytest.raises(UserError, match=rf"{failing} cannot be read \(Stale"):
            checkpoints.remove_leftovers()
    checkpoints.remove_leftovers()
    assert list_complete_steps(checkpoints.directory) == [5]


def test_restored_state_is_the_saved_one_and_is_not_disturbed_by_later_steps(tmp_path, state, like):
    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=())
    wanted = np.asarray(state.parameters["a.kernel"]).copy()
    checkpoints.save(state, 5)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    restored = checkpoints.restore(5, like)
    np.testing.assert_array_equal(restored.parameters["a.kernel"], wanted)
    assert int(restored.step) == 5


def test_a_damaged_checkpoint_is_named(tmp_path, state, like):
    checkpoints = save(tmp_path, state)
    for data in (tmp_path / "checkpoints" / "5" / "parameters").rglob("manifest.ocdbt"):
        data.write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match=r"checkpoints/5 cannot be read .*manifest") as error:
        checkpoints.restore(5, like)
    assert len(str(error.value)) < 700
    (tmp_path / "checkpoints" / "5" / "parameters" / "_METADATA").write_text("garbage")
    with pytest.raises(UserError, match=r"checkpoints/5 cannot be read \([^)]{20}"):
        checkpoints.restore(5, like)
    assert "andler" not in str(error.value)  # Orbax's


def flip(path, at, count=256):
    """Turn over all bits of some bytes."""
    data = bytearray(path.read_bytes())
    data[at : at + count] = bytes(byte ^ 0xFF for byte in data[at : at + count])
    path.write_bytes(data)


def wide(state):
    """A state with enough random values that most bytes of a checkpoint are of arrays."""
    values = jax.random.normal(jax.random.key(0), (64, 64))
    return state._replace(parameters={"a.kernel": values})


@pytest.mark.parametrize("part", ["parameters", "optimizer"])
@pytest.mark.parametrize("apart", [False, True])
def test_flipped_bytes_of_an_array_are_found(tmp_path, state, part, apart):
    values = wide(state).parameters
    made = state._replace(parameters=values, moments={"a.kernel": FullMoment(values["a.kernel"])})
    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=(3, 5))
    for step in (3, 5):
        saved = made._replace(step=jnp.int32(step))
        if apart:
            _save_apart(checkpoints.directory / str(step), _split_state(saved), {})()
        else:
            checkpoints.save(saved, step)
            checkpoints.wait()
    checkpoints.restore(5, made)
    files = [path for path in (checkpoints.directory / "5" / part).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    flip(largest, largest.stat().st_size // 2)
    with pytest.raises(
        UserError,
        match=rf"checkpoints/5 cannot be read \({part}/\S*a\.kernel\S* has other bytes than were "
        r"written\): remove it, and training continues from the checkpoint of step 3$",
    ):
        checkpoints.restore(5, made)
    checkpoints.restore(3, made)


def test_checkpoints_without_checksums_are_read(tmp_path, state, monkeypatch):
    made = wide(state)
    with monkeypatch.context() as patch:
        plain = checkpoint._build_zarr3_metadata
        patch.setattr(checkpoint.tensorstore_utils, "_build_zarr3_metadata", plain)
        checkpoints = save(tmp_path, made)
    restored = checkpoints.restore(5, made)
    np.testing.assert_array_equal(restored.parameters["a.kernel"], made.parameters["a.kernel"])


def test_the_checkpoint_before_may_be_in_the_bucket_only(tmp_path, state, like):
    files = BucketFiles("gs://bucket/run", tmp_path)
    files._steps = {3, 4, 5}
    save(tmp_path, state)
    checkpoints = Checkpoints(tmp_path / "checkpoints", (), files=files)
    (tmp_path / "checkpoints" / "5" / "parameters" / "_METADATA").write_text("garbage")
    with pytest.raises(UserError, match=r"continues from the checkpoint of step 4$"):
        checkpoints.restore(5, like)


def test_flipped_bytes_anywhere_are_named_or_change_nothing(tmp_path, state):
    made = wide(state)
    checkpoints = save(tmp_path, made)
    wanted = checkpoints.restore(5, made)
    named, files = 0, (checkpoints.directory / "5").rglob("*")
    for path in sorted(path for path in files if path.stat().st_size):
        before = path.read_bytes() if path.is_file() else b""
        for at in range(0, len(before), max(1, len(before) // 3)):
            flip(path, at, 3)
            try:
                restored = checkpoints.restore(5, made)
            except UserError:
                named += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, restored, wanted)
            path.write_bytes(before)
    assert named > 9


def test_parameters_are_restored_without_the_optimizers_arrays(tmp_path, state, like, caplog):
    """A working copy of a run in a bucket lacks them; nothing shall complain of it."""
    moments = {f"{number}.kernel": state.moments["a.kernel"] for number in range(20)}
    save(tmp_path, state._replace(moments=moments))
    for path in (tmp_path / "checkpoints/5/optimizer").rglob("*"):
        if path.is_file() and path.name != "_METADATA":
            path.unlink()
    restored = restore_parameters(RunFiles(tmp_path, tmp_path), 5, like.parameters)
    np.testing.assert_array_equal(restored["a.kernel"], state.parameters["a.kernel"])
    gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_checkpoint_of_another_run_or_step_is_named(tmp_path, state, like):
    directory = tmp_path / "checkpoints"
    checkpoints = save(tmp_path, state, "one")
    shutil.copytree(directory / "5", directory / "8")
    checkpoints.restore(5, like)
    with pytest.raises(UserError, match=r"8 is a checkpoint of step 5: remove it, .* of step 5$"):
        checkpoints.restore(8, like)
    with pytest.raises(UserError, match=r"checkpoints/5 is a checkpoint of another run: restore"):
        Checkpoints(directory, (), "other").restore(5, like)
    for run in ("one", ""):
        restore_parameters(RunFiles(tmp_path, tmp_path), 5, like.parameters, run)
    with pytest.raises(UserError, match="another run: restore it"):
        restore_parameters(RunFiles(tmp_path, tmp_path), 5, like.parameters, "other")


def test_a_checkpoint_of_another_model_is_named(tmp_path, state):
    checkpoints = save(tmp_path, state)
    narrow = jax.ShapeDtypeStruct((2, 2), "float32")
    with pytest.raises(UserError, match=r"parameters a.kernel is \(2, 3\) there and"):
        restore_parameters(RunFiles(tmp_path, tmp_path), 5, {"a.kernel": narrow})
    with pytest.raises(UserError, match=r"parameters a.kernel is \(2, 3\) there and absent"):
        restore_parameters(RunFiles(tmp_path, tmp_path), 5, {})
    adam = state._replace(moments={"a.kernel": AdamMoments(narrow, narrow)})
    with pytest.raises(UserError, match=r"model: optimizer moments.a.kernel.mean is absent"):
        checkpoints.restore(5, adam)


class Matrix:
    """Stands for an array on a device."""

    ndim = 2

    def __init__(self):
        self.fetches = 0

    def __array__(self, *_: object, **__: object):
        self.fetches += 1
        return np.full((2, 4), 0.25)


def test_a_step_fetches_no_matrix_that_it_does_not_write(tmp_path):
    plan, loads = child.plan("mswitch-tiny", 3), Matrix()
    loss, stacks = np.float32(2.5), ("", "_encoder", "_decoder")
    metrics = {f"router/drop_fraction{stack}": np.float32(0.0) for stack in stacks}
    metrics |= {"train/loss": loss, "train/gradient_norm": loss, "router/load": loads}
    with Recorder(plan, child.MemoryBatches(8), tmp_path, 0) as recorder:
        recorder.begin(0.0)
        for step in (1, 2, 3):
            recorder.record(step, metrics)
    assert loads.fetches == 1
    assert ["router/load" in line for line in read(tmp_path)] == [True, False, False]
