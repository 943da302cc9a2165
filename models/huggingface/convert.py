"""Convert a Hugging Face directory to a run (`import_hf`), and back (`export_hf`).

An imported run has one checkpoint, at step 0. If a float32 model is imported and exported, its
values are the same to the bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.huggingface.card import CARD, read_report, render_card
from mswitch.models.huggingface.config import (
    MODELING,
    needs_modeling_file,
    read_config,
    write_config,
)
from mswitch.models.huggingface.files import CONFIG, WeightFiles, write_weights
from mswitch.models.huggingface.tensors import (
    EMBEDDING,
    EMBEDDING_COPIES,
    HEAD,
    UNUSED,
    Piece,
    list_exported_pieces,
    list_pieces,
)
from mswitch.models.huggingface.tokenizer import TOKENIZER, write_tokenizer
from mswitch.models.presets import PRESETS
from mswitch.models.training.checkpoint import choose_step, restore_parameters
from mswitch.models.training.run_directory import (
    check_model_file,
    parse_model,
    parse_train_config,
    read_run,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.state import Parameters, Skeleton, count_parameters, unroll
from mswitch.models.training.step_zero import stage_run, write_step_zero
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import file_sha256, read_json_object, stage_output
from mswitch.pipelines.progress import say
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID
from mswitch.pipelines.vocabulary.model import VocabularyModel, open_vocabulary

#: Maximum bytes of a weights file, as in `save_pretrained` of transformers 4.
MAX_SHARD_BYTES = 5_000_000_000
IMPORTED = "imported"
#: Training settings of an imported run: float32, so that evaluation does not round parameters.
_TRAIN = TrainConfig(dtype="float32")


def import_hf(directory: str | Path, out: str | Path) -> dict[str, Any]:
    """Make a run directory from a Hugging Face model.

    Args:
        directory: output of `save_pretrained`: config.json and safetensors, sharded or not.
        out: the run directory, also in a bucket.

    Returns:
        Summary: stage, out, reused, preset, parameters.
    """
    directory = Path(directory)
    original = read_json_object(directory / CONFIG)
    model = read_config(original, str(directory / CONFIG))
    files = WeightFiles(directory)
    source = {name: file_sha256(directory / name) for name in files.files}
    skeleton = Skeleton.build(model, _TRAIN)
    counts = count_parameters(skeleton)
    summary = {"stage": "import-hf", "out": str(out), "parameters": sum(counts.values())}
    preset = find_preset_name(model)
    with stage_run(out, stage="import-hf", config={"config": original, "sha256": source}) as output:
        if output.complete:
            return {**summary, "preset": preset, "reused": True}
        values = read_parameters(files, model)
        say("import-hf", f"{preset}: {sum(counts.values()):,} parameters from {directory}")
        parameters = {name: jnp.asarray(value) for name, value in values.items()}
        write_step_zero(
            output.directory,
            output.hash,
            skeleton,
            parameters,
            preset=preset,
            huggingface=original,
        )
        output.publish({"parameters": sum(counts.values()), "preset": preset})
    return {**summary, "preset": preset, "reused": False}


def export_hf(
    run: str | Path,
    out: str | Path,
    *,
    vocab: str | Path | None = None,
    step: int | None = None,
    report: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, Any]:
    """Write a checkpoint as a directory for `from_pretrained` of transformers.

    Args:
        run: a run directory, also in a bucket.
        out: the new directory.
        vocab: the model's vocabulary, to write as a tokenizer; None writes no tokenizer.
        step: the checkpoint; by default the one that `predict --select` chose, or the newest.
        report: directory of a report on the run, whose result the model card quotes.
        max_shard_bytes: largest size of a file.

    Returns:
        Summary: stage, out, reused, step, parameters, files.
    """
    if max_shard_bytes < 1:
        raise UserError("--max-shard-bytes must be at least 1")
    vocabulary = open_vocabulary(vocab) if vocab is not None else None
    with open_files(run) as files:
        files.refresh()
        return _export(files, out, vocabulary, step, report, max_shard_bytes)


def _export(
    files: RunFiles,
    out: str | Path,
    vocabulary: VocabularyModel | None,
    step: int | None,
    report: str | Path | None,
    max_shard_bytes: int,
) -> dict[str, Any]:
    run = files.directory
    described = read_run(run)
    model = parse_model(described)
    config = write_config(model, described.get("huggingface"))
    if vocabulary is not None:
        check_model_file(files.place, described, vocabulary)
    step = choose_step(files, step)
    quoted = None if report is None else read_report(report, described)
    identity = {
        "run": described["config_hash"],
        "step": step,
        "max_shard_bytes": max_shard_bytes,
        **({"vocabulary": vocabulary.sha256, "tokenizer": TOKENIZER} if vocabulary else {}),
        **({"report": quoted} if quoted else {}),
    }
    summary: dict[str, Any] = {"stage": "export-hf", "out": str(out), "step": step}
    skeleton = Skeleton.build(model, _TRAIN)
    _check_pieces(model, skeleton)
    summary["parameters"] = sum(count_parameters(skeleton).values())
    with stage_output(out, stage="export-hf", config=identity) as output:
        if output.complete:
            return {**summary, "reused": True}
        stored = Skeleton.build(model, parse_train_config(described))
        like = stored.abstract_parameters()
        restored = restore_parameters(files, step, like, described["config_hash"])
        parameters = unroll(restored)
        places = {piece.tensor: piece for piece in list_exported_pieces(model)}
        written = write_weights(
            output.directory,
            {name: find_tensor_shape(piece, skeleton) for name, piece in places.items()},
            lambda name: _read_tensor(places[name], parameters),
            max_shard_bytes,
        )
        storage.write_json(output.directory / CONFIG, config)
        own_file = needs_modeling_file(model)
        if own_file:
            _write_own_files(output.directory, model, vocabulary)
        card = render_card(described, step, summary["parameters"], quoted, own_file=own_file)
        (output.directory / CARD).write_text(card, encoding="utf-8")
        if vocabulary is not None:
            write_tokenizer(output.directory, vocabulary.model)
        output.publish({"parameters": summary["parameters"], "files": written})
    return {**summary, "reused": False, "files": len(written)}


def _write_own_files(
    directory: Path, model: ModelConfig, vocabulary: VocabularyModel | None
) -> None:
    """Write the modelling file, and options by which `generate` decodes as `predict` does."""
    (directory / MODELING.name).write_bytes(MODELING.read_bytes())
    pieces = model.vocabulary_size if vocabulary is None else vocabulary.size
    options = {
        "decoder_start_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "suppress_tokens": [PAD_ID, *range(pieces, model.vocabulary_size)],
    }
    storage.write_json(directory / "generation_config.json", options)


def read_parameters(files: WeightFiles, model: ModelConfig) -> dict[str, np.ndarray]:
    """Read all parameters of a model, in float32."""
    skeleton = Skeleton.build(model, _TRAIN)
    _check_pieces(model, skeleton)
    values = {name: np.empty(s.shape, np.float32) for name, s in skeleton.shapes.items()}
    unused = set(files.file_of) - set(UNUSED)
    if HEAD not in files.file_of and not model.tied_embeddings:
        raise UserError(
            f"{files.directory} has no tensor {HEAD}, and {CONFIG} says that logits and embedding "
            "are not tied: set tie_word_embeddings to true there if they are"
        )
    for piece in list_pieces(model):
        value = files.read(piece.tensor, find_tensor_shape(piece, skeleton))
        values[piece.parameter][piece.index] = value.T if piece.transposed else value
        unused.discard(piece.tensor)
    embedding = values["embedding.table"]
    copies = (*EMBEDDING_COPIES, HEAD) if model.tied_embeddings else EMBEDDING_COPIES
    for name in copies:
        if name in unused and not np.array_equal(files.read(name, embedding.shape), embedding):
            raise UserError(
                f"{files.directory}: {name} differs from {EMBEDDING}, though {CONFIG} says that "
                "they are tied: correct tie_word_embeddings, or save the model again"
            )
        unused.discard(name)
    if unused:
        some = ", ".join(sorted(unused)[:3])
        raise UserError(
            f"{files.directory} has {len(unused)} tensors that are not in the model of its "
            f"{CONFIG}, such as {some}: the weights or {CONFIG} belong to another model"
        )
    return values


def _check_pieces(model: ModelConfig, skeleton: Skeleton) -> None:
    ours, theirs = set(skeleton.shapes), {piece.parameter for piece in list_pieces(model)}
    sides = ((ours - theirs, "without a tensor"), (theirs - ours, "that the model has not"))
    for names, what in sides:
        if names:
            raise UserError(
                f"{len(names)} parameters {what} in Hugging Face's layout: "
                f"{', '.join(sorted(names))}: transformers has no such model; leave out the option "
                "that makes the difference"
            )


def find_tensor_shape(piece: Piece, skeleton: Skeleton) -> tuple[int, ...]:
    """Return the shape of the Hugging Face tensor that `piece` describes."""
    shape = skeleton.shapes[piece.parameter].shape[len(piece.index) :]
    return shape[::-1] if piece.transposed else shape


def find_preset_name(model: ModelConfig) -> str:
    """Return the name of the preset with this model, or `imported`."""
    return next((name for name, known in PRESETS.items() if known.model == model), IMPORTED)


def _read_tensor(piece: Piece, parameters: Parameters | Mapping[str, np.ndarray]) -> np.ndarray:
    value = np.asarray(parameters[piece.parameter][piece.index])
    return value.T if piece.transposed else value
