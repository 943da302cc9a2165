"""Run a checkpoint over the validation batches, on one device or the devices of a job.

No token is dropped: the experts' capacity grows until every token has a slot. So a sequence's loss
depends neither on the rest of its batch nor on how the batch is sharded.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from mswitch.models.capacity import Groups, expert_capacity, group_batch
from mswitch.models.config import TrainConfig
from mswitch.models.evaluation.near_duplicates import (
    Document,
    number_clusters,
    restore_tokens,
    sign,
)
from mswitch.models.evaluation.schemas import BORDER_NATS, DENOISER, ROUTING_SCHEMA, WHOLE_SCHEMA
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.losses import compute_token_losses
from mswitch.models.partitioning import check_divisible, find_fed_part, make_mesh, put_batch
from mswitch.models.training.checkpoint import restore_parameters
from mswitch.models.training.distributed import JobError, is_first, meet, together
from mswitch.models.training.run_directory import parse_model
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.models.training.total_loss import BORDERS, FEATURES, Batch, run_model
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import Progress
from mswitch.pipelines.special_tokens import SENTINELS
from mswitch.tasks.batches.prefetch import make_ahead
from mswitch.tasks.batches.validation import ValidationBatches

TEXT = ("encoder_input_tokens", "decoder_target_tokens")


class EvaluationResult(NamedTuple):
    """Loss and number of tokens of each sequence, and the load of the experts.

    Attributes:
        nats: cross-entropy over the sequence's real target tokens.
        target_tokens: number of these tokens.
        peaks: most tokens that a group assigned to one expert, in encoder and decoder.
        dropped: tokens without a slot, over all layers.
        loads: tokens per sequence and expert, in every sparse layer, encoder's first.
        border_nats: the share of sentinels and ends in `nats`, if the batch has BORDERS.
    """

    nats: Float[Array, " B"]
    target_tokens: Float[Array, " B"]
    peaks: Int[Array, "2"]
    dropped: Int[Array, ""]
    loads: Int[Array, "layers B E"]
    border_nats: Float[Array, " B"] | None = None


def make_evaluation_step(skeleton: Skeleton) -> jax.stages.Wrapped:
    """Return a jitted `(parameters, batch, groups, capacities) -> EvaluationResult`."""

    def evaluation_step(
        parameters: Parameters, batch: Batch, groups: Groups, capacities: tuple[int, int] | None
    ) -> EvaluationResult:
        with skeleton.matmul_precision():
            head, stats = run_model(
                skeleton, parameters, batch, groups=groups, capacities=capacities
            )
            losses, _ = compute_token_losses(
                head, batch["decoder_target_tokens"], skeleton.train.loss_chunks
            )
        weights = batch["decoder_loss_weights"]
        nats, target_tokens = (losses * weights).sum(axis=-1), weights.sum(axis=-1)
        rows = head.x.shape[0]
        borders = (losses * batch[BORDERS]).sum(axis=-1) if BORDERS in batch else None
        if stats is None:
            peaks, dropped = jnp.zeros(2, jnp.int32), jnp.zeros((), jnp.int32)
            loads = jnp.zeros((0, rows, 0), int)
        else:
            peaks = jnp.stack([part.peak.max() for part in stats])
            dropped = jnp.asarray(sum(part.dropped.sum() for part in stats))
            loads = jnp.concatenate(
                [count_sequence_loads(part.expert, rows, skeleton.config.experts) for part in stats]
            )
        return EvaluationResult(nats, target_tokens, peaks, dropped, loads, borders)

    # Each device of a mesh, and so each process, gets the whole result.
    whole = None if skeleton.mesh is None else NamedSharding(skeleton.mesh, PartitionSpec())
    return jax.jit(evaluation_step, static_argnums=(2, 3), out_shardings=whole)


def count_sequence_loads(
    expert: Int[Array, "layers G S"], rows: int, experts: int
) -> Int[Array, "layers B E"]:
    """Count, for each sequence and expert, the sequence's tokens that chose this expert."""
    expert_by_row = expert.reshape(expert.shape[0], rows, -1)
    return jax.nn.one_hot(expert_by_row, experts, dtype=jnp.int32).sum(axis=2)


class Evaluator:
    """Evaluates a run's parameters on the validation batches.

    Args:
        described: the run's config.json.
        train: the configuration from `adapt_training`.
        dispatch: `queues` or `blocks` (see `EvaluateConfig`).
        batches: whole batches, the same in every process of a job.
    """

    def __init__(
        self,
        described: dict[str, Any],
        train: TrainConfig,
        dispatch: str,
        batches: ValidationBatches,
    ):
        self._model, self._config_hash = parse_model(described), described["config_hash"]
        self._in_blocks = self._model.sparse and dispatch == "blocks"
        if self._in_blocks and train.devices > 1:
            raise UserError(
                f"--dispatch blocks is for one device, and this evaluation has {train.devices}: "
                "leave it out, or give --data-parallel 1"
            )
        self._mesh = make_mesh(train)
        self._part, self._parts = find_fed_part(self._mesh)
        self._shards = train.data_parallel * train.expert_parallel
        check_divisible(self._model, train, Groups(self._shards, self._shards))
        self._skeleton = Skeleton.build(self._model, train, self._mesh)
        self._step = make_evaluation_step(self._skeleton)
        self._compiled: dict[Any, Callable[..., EvaluationResult]] = {}
        self._batches = batches
        self._clusters: dict[Document, int] = {}

    def make_tables(self, files: RunFiles, step: int) -> tuple[pa.Table, pa.Table | None]:
        """Return a checkpoint's table of documents and, for a sparse model, of routing.

        Per document: nats, target tokens, bytes, cluster, in a row for each `denoiser` if there are
        several. Per language: tokens of each layer and expert. All processes of a job must call
        this, and get the same tables.
        """
        like = self._skeleton.abstract_parameters()
        parameters = restore_parameters(files, step, like, self._config_hash)
        documents: dict[tuple[str, str, int], list[float]] = collections.defaultdict(
            lambda: [0.0, 0, 0, 0.0]
        )
        loads: dict[str, np.ndarray] = {}
        signatures: dict[Document, np.ndarray] = {}
        first = self._batches.vocabulary_size - SENTINELS
        for batch, result in self._evaluate_batches(parameters, f"step {step:,}"):
            for row, index in enumerate(batch["language"]):
                if index < 0:
                    continue
                lang, document = self._batches.languages[index], str(batch["document"][row])
                if not self._clusters:  # all checkpoints have the same clusters
                    inputs, targets = (batch[name][row] for name in TEXT)
                    signature = sign(restore_tokens(inputs, targets, first))
                    least = signatures.setdefault((lang, document), signature)
                    np.minimum(least, signature, out=least)
                sums = documents[lang, document, int(batch["denoiser"][row])]
                sums[0] += float(result.nats[row])
                sums[1] += int(result.target_tokens[row])
                sums[2] += int(batch["target_bytes"][row])
                if result.border_nats is not None:
                    sums[3] += float(result.border_nats[row])
                counts = np.asarray(result.loads[:, row], np.int64)
                loads[lang] = loads[lang] + counts if lang in loads else counts
        self._clusters = self._clusters or number_clusters(signatures)
        rows = [
            (lang, key, *sums[:3], self._clusters[lang, key], sums[3], kind)
            for (lang, key, kind), sums in sorted(documents.items())
        ]
        table = _make_table(rows, WHOLE_SCHEMA)
        unused = [] if any(kind for *_, kind in documents) else [DENOISER]
        unused += [] if self._batches.in_bytes else [BORDER_NATS]
        table = table.drop(unused)
        return table, _make_routing_table(loads) if self._model.sparse else None

    def _evaluate_batches(
        self, parameters: Parameters, what: str
    ) -> Iterator[tuple[dict[str, np.ndarray], EvaluationResult]]:
        """Evaluate every batch, with enough capacity that no token is dropped.

        Capacities start again for every checkpoint, and depend only on the batches. So a rerun
        after a crash gives the same bytes on the same mesh.
        """
        progress = Progress("evaluate", what, len(self._batches), "batches")
        capacities: tuple[int, int] | None = None
        numbers = range(len(self._batches))
        with contextlib.closing(make_ahead(self._batches.__getitem__, numbers)) as batches:
            for index in numbers:
                batch = together(lambda: next(batches))
                result, capacities = self._evaluate_without_drops(parameters, batch, capacities)
                if not np.isfinite(result.nats).all():
                    raise JobError(
                        f"{what}: the loss of batch {index} is not a number: remove that run"
                    )
                if is_first():
                    progress.add(1)
                yield batch, result

    def _evaluate_without_drops(
        self,
        parameters: Parameters,
        batch: dict[str, np.ndarray],
        capacities: tuple[int, int] | None,
    ) -> tuple[EvaluationResult, tuple[int, int] | None]:
        """Evaluate a batch; while experts drop tokens, repeat it with larger capacities.

        Return the result and the last capacities, with which the next batch can begin.
        """
        rows, inputs_length = batch["encoder_input_tokens"].shape
        targets_length = batch["decoder_target_tokens"].shape[1]
        fed = slice(*(part * rows // self._parts for part in (self._part, self._part + 1)))
        features = (*FEATURES, BORDERS) if self._batches.in_bytes else FEATURES
        arrays = put_batch({name: batch[name][fed] for name in features}, self._mesh)
        # Each group must be on one device. Groups do not change results if no token is dropped.
        shard_groups = group_batch(self._model, rows // self._shards, inputs_length, targets_length)
        groups = Groups(self._shards * shard_groups.encoder, self._shards * shard_groups.decoder)
        encoder = rows * inputs_length // groups.encoder
        decoder = rows * targets_length // groups.decoder
        if self._in_blocks:
            capacities = (DROPLESS, DROPLESS)
        elif self._model.sparse and capacities is None:
            capacities = self._choose_first_capacity(encoder), self._choose_first_capacity(decoder)
        result = self._run(parameters, arrays, groups, capacities)
        while capacities is not None and not self._in_blocks and result.dropped:
            # If fewer tokens are dropped, the inputs of later layers change. Their experts may then
            # get more tokens. So repeat until no token is dropped.
            capacities = (
                fit_capacity(capacities[0], int(result.peaks[0]), encoder),
                fit_capacity(capacities[1], int(result.peaks[1]), decoder),
            )
            result = self._run(parameters, arrays, groups, capacities)
        assert not result.dropped
        return result, capacities

    def _run(
        self,
        parameters: Parameters,
        batch: dict[str, jax.Array],
        groups: Groups,
        capacities: tuple[int, int] | None,
    ) -> EvaluationResult:
        if (groups, capacities) not in self._compiled:
            lowered = self._step.lower(parameters, batch, groups, capacities)
            self._compiled[groups, capacities] = lowered.compile()
            # Wait for all processes, because some take longer to compile than others.
            meet("compiled")
        return jax.device_get(self._compiled[groups, capacities](parameters, batch))

    def _choose_first_capacity(self, positions: int) -> int:
        usual = expert_capacity(self._model.capacity_factor, positions, self._model.experts)
        return fit_capacity(0, usual, positions)


def fit_capacity(capacity: int, peak: int, positions: int) -> int:
    """Round `peak` up to a power of two; return at least `capacity`, at most `positions`."""
    return min(max(capacity, 1 << max(peak - 1, 0).bit_length()), positions)


def _make_routing_table(loads: dict[str, np.ndarray]) -> pa.Table:
    rows = [
        (lang, layer, expert, int(tokens))
        for lang in sorted(loads)
        for (layer, expert), tokens in np.ndenumerate(loads[lang])
    ]
    return _make_table(rows, ROUTING_SCHEMA)


def _make_table(rows: list[tuple], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema)
