"""Decode many texts in batches of similar lengths, on one device or several.

Inputs are sorted by length and padded to a power of two. So few programs are compiled, and little
padding is computed. An output does not depend on other texts of its batch.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from mswitch.models.config import PredictConfig
from mswitch.models.inference.beam import make_beam_decoder
from mswitch.models.inference.decode import make_decoder
from mswitch.models.inference.labels import make_label_scorer
from mswitch.models.partitioning import make_mesh
from mswitch.models.training.checkpoint import restore_parameters
from mswitch.models.training.run_directory import parse_model, parse_train_config
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import Progress
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID

SHORTEST = 32

#: Function `(parameters, inputs [B, M]) -> (answers, scores [B])`. Answers are tokens [B, T], or
#: labels' numbers [B].
Answer = Callable[[Parameters, Array], tuple[Array, Array]]


class Generator:
    """Answers inputs with a run's model and its vocabulary.

    Args:
        files: the run.
        described: its config.json.
        processor: its vocabulary.
        targets_length: most tokens of an answer.
        labels: the closed set of answers, for `decode = "labels"`.
        read: converts the tokens of an answer; by default to text.
    """

    def __init__(
        self,
        files: RunFiles,
        described: Mapping[str, Any],
        processor: sentencepiece.SentencePieceProcessor,
        config: PredictConfig,
        targets_length: int,
        labels: Sequence[str] | None = None,
        read: Callable[[list[int]], Any] | None = None,
    ):
        train = parse_train_config(described)
        train = dataclasses.replace(
            train,
            dtype=config.dtype or train.dtype,
            attention="xla",
            microbatches=1,
            data_parallel=config.data_parallel,
            expert_parallel=1,
            model_parallel=1,
        )
        self._files, self._config_hash = files, described["config_hash"]
        self._mesh = make_mesh(train)
        self._skeleton = Skeleton.build(parse_model(described), train)
        self._processor, self._batch_size = processor, config.batch_size
        self._labels = labels if config.decode == "labels" else None
        self._read = read or processor.DecodeIds
        answer = self._make_answer(config, targets_length)
        if self._mesh is not None:
            rows = PartitionSpec("data")
            answer = jax.shard_map(
                answer,
                mesh=self._mesh,
                in_specs=(PartitionSpec(), rows),
                out_specs=rows,
                check_vma=False,
            )
        self._compiled = jax.jit(answer)

    def _make_answer(self, config: PredictConfig, length: int) -> Answer:
        pieces = self._processor.GetPieceSize()
        if self._labels is not None:
            tokens = [[*self._processor.EncodeAsIds(label), EOS_ID] for label in self._labels]
            score = make_label_scorer(self._skeleton, tokens)

            def likeliest(parameters: Parameters, inputs: Array) -> tuple[Array, Array]:
                scores = score(parameters, inputs)
                return scores.argmax(axis=-1), scores.max(axis=-1)

            return likeliest
        if config.decode == "beam":
            search = make_beam_decoder(
                self._skeleton, length, config.beams, alpha=config.alpha, pieces=pieces
            )

            def best(parameters: Parameters, inputs: Array) -> tuple[Array, Array]:
                outputs = search(parameters, inputs)
                return outputs.tokens[:, 0], outputs.scores[:, 0]

            return best
        return make_decoder(self._skeleton, length, pieces=pieces)

    def _restore(self, step: int) -> Parameters:
        like = self._skeleton.abstract_parameters()
        if self._mesh is not None:
            whole = NamedSharding(self._mesh, PartitionSpec())
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), like
            )
        return restore_parameters(self._files, step, like, self._config_hash)

    def __call__(
        self, inputs: Sequence[Sequence[int]], step: int, what: str
    ) -> tuple[list[Any], list[float]]:
        """Answer every input; return the answers, converted by `read`, and their scores in nats.

        Args:
            inputs: token ids of each text, at least one, including EOS.
            step: the checkpoint.
            what: name of the texts, for the progress line.
        """
        parameters = self._restore(step)
        answers: list[Any] = [None] * len(inputs)
        scores = [0.0] * len(inputs)
        order = sorted(range(len(inputs)), key=lambda row: (len(inputs[row]), row))
        batches = _batches(order, self._batch_size, lambda row: pad_length(len(inputs[row])))
        progress = Progress("predict", what, len(batches), "batches")

        def take(rows: Sequence[int], answer: tuple[Array, Array]) -> None:
            for row, value, score in zip(rows, *map(np.asarray, answer), strict=False):
                answers[row], scores[row] = self._read_answer(value), float(score)
            progress.add(1)

        pending: tuple[Sequence[int], tuple[Array, Array]] | None = None
        for rows in batches:
            longest = pad_length(len(inputs[rows[-1]]))
            batch = np.full((self._batch_size, longest), PAD_ID, np.int32)
            for place, row in zip(batch, rows, strict=False):
                place[: len(inputs[row])] = inputs[row]
            answer = self._compiled(parameters, jnp.asarray(batch))
            # While the device works on this batch, store the answers to the previous batch.
            if pending is not None:
                take(*pending)
            pending = rows, answer
        if pending is not None:
            take(*pending)
        return answers, scores

    def _read_answer(self, value: np.ndarray) -> Any:
        if self._labels is not None:
            return self._labels[int(value)]
        tokens = value.tolist()
        end = next((i for i, token in enumerate(tokens) if token in (EOS_ID, PAD_ID)), len(tokens))
        return self._read(tokens[:end])


def find_own_examples(files: RunFiles, described: Mapping[str, Any]) -> str:
    """Return the path or URL of the examples that a run was trained on."""
    if described["examples"] is None:
        raise UserError(f"{files.place} was trained on nothing here: give --tasks")
    path = described["examples"]["path"]
    return path if storage.is_remote(path) else os.path.normpath(files.directory / path)


def pad_length(length: int) -> int:
    """Return the length that an input is padded to."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def _batches(order: Sequence[int], size: int, kind: Callable[[int], int]) -> list[Sequence[int]]:
    kinds = (list(rows) for _, rows in itertools.groupby(order, kind))
    return [rows[first : first + size] for rows in kinds for first in range(0, len(rows), size)]
