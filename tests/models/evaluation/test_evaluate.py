import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import evaluate_child
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import train_child as child
from processes import end, start
from trained_runs import parameters_of, skeleton_of

from mswitch.models.capacity import Groups
from mswitch.models.config import EvaluateConfig
from mswitch.models.evaluation import evaluate as evaluation
from mswitch.models.evaluation.evaluate import evaluate, evaluate_run
from mswitch.models.evaluation.schemas import SCHEMA
from mswitch.models.huggingface.convert import export_hf, import_hf
from mswitch.models.training.run_directory import read_run
from mswitch.pipelines import directory_lock
from mswitch.pipelines.errors import UserError

CONFIG = EvaluateConfig(batch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "run"
    child.run("mswitch-tiny", out, 4)
    return out


def evaluate_on(run: Path, config: EvaluateConfig = CONFIG, **options) -> dict:
    """Evaluate on validation batches in memory."""
    return evaluate_run(run, read_run(run), child.MemoryValidation, config, **options)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the run that was not evaluated."""
    ignored = shutil.ignore_patterns("eval", "routing")
    return Path(shutil.copytree(run, tmp_path / "run", ignore=ignored))


@pytest.fixture(scope="module")
def evaluated(run) -> Path:
    summary = evaluate_on(run)
    assert summary["reused"] is False
    assert summary["steps"] == 2
    return run


def expected(run: Path, step: int) -> dict[tuple[str, str], list]:
    """Each sequence on its own, with plain logits in NumPy."""
    skeleton, parameters = skeleton_of(run), parameters_of(run, step)

    @jax.jit
    def logits(parameters, source, decoder_input, target):
        module = skeleton.merge(parameters)
        x, _ = module(source, decoder_input, target, groups=Groups(), capacities=(12, 8))
        return x @ module.find_logits_kernel()[0]

    sums: dict[tuple[str, str], list] = {}
    validation = child.MemoryValidation(8)
    for batch in (validation[i] for i in range(len(validation))):
        for row, index in enumerate(batch["language"]):
            if index < 0:
                continue
            target = batch["decoder_target_tokens"][row]
            made = np.asarray(
                logits(
                    parameters,
                    batch["encoder_input_tokens"][row][None],
                    batch["decoder_input_tokens"][row][None],
                    target[None],
                )[0],
                np.float64,
            )
            log_z = np.log(np.exp(made).sum(-1))
            nats = (log_z - made[np.arange(8), target])[target > 0].sum()
            key = (validation.languages[index], batch["document"][row])
            entry = sums.setdefault(key, [0.0, 0, 0])
            entry[0] += nats
            entry[1] += int((target > 0).sum())
            entry[2] += int(batch["target_bytes"][row])
    return sums


def test_documents_have_the_losses_of_their_sequences_alone(evaluated):
    for step in read_run(evaluated)["eval_steps"]:
        table = pq.read_table(evaluated / "eval" / f"{step}.parquet")
        assert table.schema.equals(SCHEMA)
        rows = table.to_pylist()
        keys = [(row["lang"], row["document"]) for row in rows]
        wanted = expected(evaluated, step)
        assert keys == sorted(wanted)
        for row, key in zip(rows, keys, strict=True):
            nats, tokens, size = wanted[key]
            assert row["nats"] == pytest.approx(nats, rel=1e-5)
            assert (row["target_tokens"], row["target_bytes"]) == (tokens, size)


def test_routing_counts_every_real_token_once_per_layer(evaluated):
    rows = pq.read_table(evaluated / "routing" / "4.parquet").to_pylist()
    validation = child.MemoryValidation(8)
    batches = [validation[i] for i in range(3)]
    for number, lang in enumerate(validation.languages):
        for layer, feature in enumerate(("encoder_input_tokens", "decoder_target_tokens")):
            routed = sum(r["tokens"] for r in rows if (r["lang"], r["layer"]) == (lang, layer))
            real = sum(int((b[feature][b["language"] == number] > 0).sum()) for b in batches)
            assert routed == real


def test_evaluation_again_does_nothing(evaluated, capsys):
    before = {path: path.stat().st_mtime_ns for path in (evaluated / "eval").iterdir()}
    assert evaluate_on(evaluated)["reused"] is True
    assert "already complete" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (evaluated / "eval").iterdir()}


def test_other_settings_are_not_mixed_in(evaluated):
    with pytest.raises(UserError, match="made with other settings"):
        evaluate_on(evaluated, EvaluateConfig(batch_size=4))


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        ("last", [90]),
        ("10", [10]),
        ("20-90", [20, 90]),
        ("20-last", [20, 90]),
        ("last, 5-15", [10, 90]),
        ("", [10, 20, 90]),
    ],
)
def test_steps_are_chosen(steps, chosen):
    assert EvaluateConfig(steps=steps).choose_steps([10, 20, 90], "run") == chosen


@pytest.mark.parametrize("steps", ["first", "1-2-3", "10,,20", "-5", "1,", "lastly"])
def test_steps_that_name_nothing(steps):
    with pytest.raises(UserError, match="give a step, a range such as 1000-5000, or last"):
        EvaluateConfig(steps=steps)
    with pytest.raises(UserError, match="--steps 30-80: run keeps no such checkpoint; it keeps 9"):
        EvaluateConfig(steps="90,30-80").choose_steps([9, 90], "run")


def test_chosen_steps_are_evaluated(evaluated, copy):
    first, last = read_run(copy)["eval_steps"]
    assert evaluate_on(copy, dataclasses.replace(CONFIG, steps="last"))["steps"] == 1
    assert [path.name for path in (copy / "eval").iterdir()] == [f"{last}.parquet"]
    assert evaluate_on(copy, dataclasses.replace(CONFIG, steps="last"))["reused"] is True
    (copy / "_COMPLETED").unlink()  # as of a run in training, whose other checkpoint is to come
    (copy / "checkpoints" / str(first)).rename(copy / "later")
    with pytest.raises(UserError, match=r"none of the steps .* to evaluate yet"):
        evaluate_on(copy, dataclasses.replace(CONFIG, steps=str(first)))
    (copy / "later").rename(copy / "checkpoints" / str(first))
    assert evaluate_on(copy)["steps"] == 2
    for name in (f"{first}.parquet", f"{last}.parquet"):
        made, wanted = ((path / "eval" / name).read_bytes() for path in (copy, evaluated))
        assert made == wanted


def test_evaluations_of_fewer_documents_are_not_mixed_in(evaluated):
    with pytest.raises(UserError, match=r"made with other settings \(--examples, --max-documents"):
        evaluate_on(evaluated, dataclasses.replace(CONFIG, max_documents=3))


def test_blocks_give_the_losses_of_queues(evaluated, run, copy):
    evaluate_on(copy, EvaluateConfig(batch_size=8, dispatch="queues"))
    made, wanted = (pq.read_table(path / "eval" / "4.parquet").to_pydict() for path in (copy, run))
    np.testing.assert_allclose(made.pop("nats"), wanted.pop("nats"), rtol=1e-5)
    assert made == wanted
    routing = (pq.read_table(path / "routing" / "4.parquet") for path in (copy, run))
    assert next(routing).equals(next(routing))
    with pytest.raises(UserError, match=r"made with other settings \(.*--dispatch"):
        evaluate_on(copy)


def test_what_several_devices_cannot_do_is_refused(copy):
    with pytest.raises(UserError, match="--dispatch blocks is for one device"):
        evaluate_on(copy, EvaluateConfig(batch_size=8, expert_parallel=2, dispatch="blocks"))
    with pytest.raises(UserError, match="needs 64 devices, and there are 1"):
        evaluate_on(copy, EvaluateConfig(batch_size=8, data_parallel=64))
    with pytest.raises(UserError, match="--model-parallel must be at least 1"):
        EvaluateConfig(model_parallel=0)


@pytest.mark.kill
def test_killed_before_and_after_a_rename_the_files_are_the_same(evaluated, copy):
    for point in ("evaluate.before_rename", "evaluate.after_rename"):
        end(start(evaluate_child.__file__, copy, MSWITCH_FAULT=point), -9)
    end(start(evaluate_child.__file__, copy))
    for directory in ("eval", "routing"):
        made = {path.name: path.read_bytes() for path in (copy / directory).iterdir()}
        wanted = {path.name: path.read_bytes() for path in (evaluated / directory).iterdir()}
        assert made == wanted


def test_a_missing_checkpoint_is_named(copy):
    first = read_run(copy)["eval_steps"][0]
    shutil.rmtree(copy / "checkpoints" / str(first))
    with pytest.raises(UserError, match=f"lacks the checkpoint of step {first}"):
        evaluate_on(copy)


@pytest.mark.slow
def test_an_imported_run_is_evaluated_as_the_one_it_came_from(tmp_path):
    """Through Hugging Face's files, the same losses; examples need not be those of training."""
    trained, imported = tmp_path / "trained", tmp_path / "imported"
    child.run("mt5-tiny", trained, 2)
    export_hf(trained, tmp_path / "hf")
    import_hf(tmp_path / "hf", imported)
    for run in (trained, imported):
        evaluate_on(run)
    made, wanted = (
        pq.read_table(run / "eval" / f"{step}.parquet").to_pydict()
        for run, step in ((imported, 0), (trained, 2))
    )
    assert made == wanted
    manifest = {"stage": "examples", "vocabulary_size": 129, "vocabulary_sha256": "v"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "_COMPLETED").write_text("")
    with pytest.raises(UserError, match="128 rows for the 129 pieces of"):
        evaluate(imported, tmp_path, CONFIG)


def test_an_evaluation_that_is_damaged_is_named(copy):
    (copy / "eval").mkdir()
    (copy / "eval" / "3.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"eval/3.parquet is damaged .*remove it"):
        evaluate_on(copy)


@pytest.fixture
def in_training(copy, tmp_path) -> Path:
    """A copy of the run as it was before it saved its last checkpoint, which lies beside it."""
    (copy / "checkpoints" / "4").rename(tmp_path / "4")
    (copy / "_COMPLETED").rename(tmp_path / "_COMPLETED")
    return copy


def end_training(run: Path) -> None:
    """Save the last checkpoint, then the marker."""
    (run.parent / "4").rename(run / "checkpoints" / "4")
    (run.parent / "_COMPLETED").rename(run / "_COMPLETED")


@pytest.fixture
def while_waiting(monkeypatch) -> Callable[[Callable[[], None]], None]:
    """Give the function that says what happens in place of each wait."""
    return lambda act: monkeypatch.setattr(
        evaluation, "time", SimpleNamespace(sleep=lambda _secs: act())
    )


def test_watching_evaluates_what_comes_and_ends_with_the_run(
    evaluated, in_training, while_waiting, monkeypatch
):
    seen = []

    def act():
        seen.append({path.name for path in (in_training / "eval").iterdir()})
        with monkeypatch.context() as patched:
            patched.setattr(directory_lock, "LOCK_PATIENCE_SECS", 0.0)
            with pytest.raises(UserError, match=r"eval is in use by another run \(process \d+\)"):
                evaluate_on(in_training)
        if len(seen) == 2:
            end_training(in_training)

    while_waiting(act)
    summary = evaluate_on(in_training, watch=True)
    first, last = read_run(in_training)["eval_steps"]
    assert seen == [{f"{first}.parquet"}] * 2
    assert (summary["reused"], summary["steps"]) == (False, 2)
    for name in (f"eval/{first}.parquet", f"eval/{last}.parquet", f"routing/{last}.parquet"):
        assert (in_training / name).read_bytes() == (evaluated / name).read_bytes()
    assert evaluate_on(in_training, watch=True)["reused"] is True


def test_a_run_that_ends_while_its_checkpoints_are_listed_lacks_none(
    in_training, while_waiting, monkeypatch
):
    listed = evaluation.list_complete_steps

    def list_then_end(directory):
        steps = listed(directory)
        if not (in_training / "_COMPLETED").exists():
            end_training(in_training)
        return steps

    monkeypatch.setattr(evaluation, "list_complete_steps", list_then_end)
    while_waiting(lambda: None)
    assert evaluate_on(in_training, watch=True)["steps"] == 2


def test_watching_waits_for_a_training_to_begin(run, tmp_path, while_waiting, capsys):
    later = tmp_path / "later"
    while_waiting(lambda: shutil.copytree(run, later))
    with pytest.raises(UserError, match="examples"):
        evaluate(later, tmp_path, CONFIG, watch=True)
    assert "waiting for" in capsys.readouterr().err


def test_not_a_run_and_other_examples_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"not a training run \(no config.json\)"):
        evaluate(tmp_path, tmp_path, CONFIG)
    manifest = {"stage": "examples", "config_hash": "another", "vocabulary_sha256": "v"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "_COMPLETED").write_text("")
    with pytest.raises(UserError, match=r"trained on other examples.*config_hash differs"):
        evaluate(run, tmp_path, CONFIG)
