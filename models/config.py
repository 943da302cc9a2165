"""Settings of a model, a training run, its job, its evaluation and its predictions."""

import dataclasses
import inspect
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError

#: Rows of the embedding and columns of the logits are a multiple of this, by T5's padding rule:
#: mT5's 250,100 pieces become 250,112 rows, and the axis can be sharded up to 128 ways.
VOCABULARY_MULTIPLE = 128

BalanceScope = Literal["group", "global"]
Precision = Literal["bfloat16", "float32"]
RouterInit = Literal["flaxformer", "paper"]
Routing = Literal["learned", "token", "hash"]
OptimizerName = Literal["adafactor", "adamw"]
BadLossPolicy = Literal["stop", "skip"]
Remat = Literal["none", "attention", "layers"]
AttentionChoice = Literal["auto", "kernel", "cudnn", "xla"]
#: Kinds of attention that keep no attention weights for the backward pass.
FUSED_ATTENTION = ("kernel", "cudnn")
Schedule = Literal["rsqrt", "constant"]
LossPer = Literal["token", "sequence"]
Freeze = Literal["none", "experts", "non-experts"]
DecodeName = Literal["greedy", "beam", "labels"]

AtLeastZero = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Rate = Annotated[float, Ge(0), Lt(1)]

OF_EXPERTS = (
    "routing",
    "capacity_factor",
    "group_size",
    "balance_weight",
    "balance_scope",
    "router_z_weight",
    "router_jitter",
    "router_dtype",
    "router_init",
    "expert_dropout_rate",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """An encoder-decoder: mT5 (T5 1.1) when `experts` is 0, a Switch Transformer otherwise.

    Attributes:
        vocabulary_size: rows of the embedding; a training run takes its examples' vocabulary.
        d_model: width of the residual stream.
        d_ff: width of the feed-forward intermediate, of a dense layer and of each expert.
        heads: attention heads.
        d_kv: width of one head; `heads * d_kv` need not be `d_model`.
        encoder_layers: blocks of the encoder.
        decoder_layers: blocks of the decoder.
        activation: `geglu` (two input projections, as mT5) or `relu` (one, as released Switch).
        tied_embeddings: whether the logits reuse the embedding (then scaled by d_model^-0.5).
        experts: experts of a sparse layer; 0 makes every layer dense.
        sparse_every: the last of each `sparse_every` blocks is sparse; 1 makes all sparse.
        routing: how a token's expert is chosen: by a `learned` router, as in the paper; by a
            `token` router, also learned, which adds logits from a table with a row for each token
            id; or by a `hash` of the token's id (Roller et al. 2021). The hash is a control:
            experts then only add parameters. The table has vocabulary_size x experts parameters in
            each sparse layer.
        capacity_factor: slots of all experts of a group over its token positions, in training.
        group_size: positions routed together in the encoder or the decoder; a group is whole
            sequences.
        balance_weight: weight of the load-balance loss, summed over sparse layers.
        balance_scope: tokens over which load is balanced: each routing `group`, as in the paper,
            or the whole batch (`global`, arXiv 2501.11873), which lets groups of one language
            specialise.
        router_z_weight: weight of the router's z-loss (ST-MoE), summed over sparse layers.
        router_jitter: half width of the multiplicative noise on the router's input in training.
        router_dtype: compute type of routers: `float32` within a bfloat16 model is the paper's
            selective precision (section 2.4); `bfloat16` is for comparison.
        router_init: initialisation of a router's kernel: `flaxformer`, normal with deviation 0.02,
            as in released Switch models; or `paper`, truncated normal with variance 0.1 / d_model
            (section 2.4), so that logits have a deviation of 0.32 at any width. Over three seeds of
            `mswitch-tiny` neither was better (docs/experiments).
        init_scale: variance scale of kernels; 0.1 in Switch Transformers (section 2.4).
        dropout_rate: dropout after embedding, attention, feed-forward and final norm.
        expert_dropout_rate: dropout on an expert's intermediate (0.4 in fine-tuning).
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: distance at which the last bucket begins.
        shared_position_bias: whether the layers of a stack share one table of position biases, as
            in T5 and mT5; if not, each has its own, as in umT5.
    """

    vocabulary_size: int = 250_112
    d_model: Count = 512
    d_ff: Count = 1024
    heads: Count = 6
    d_kv: Count = 64
    encoder_layers: Count = 8
    decoder_layers: Count = 8
    activation: Literal["geglu", "relu"] = "geglu"
    tied_embeddings: bool = False
    experts: Annotated[int, Ge(0)] = 0
    sparse_every: Count = 2
    routing: Routing = "learned"
    capacity_factor: Positive = 1.25
    group_size: Count = 4096
    balance_weight: AtLeastZero = 0.01
    balance_scope: BalanceScope = "group"
    router_z_weight: AtLeastZero = 0.0
    router_jitter: Rate = 0.01
    router_dtype: Precision = "float32"
    router_init: RouterInit = "flaxformer"
    init_scale: Positive = 1.0
    dropout_rate: Rate = 0.0
    expert_dropout_rate: Rate = 0.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    shared_position_bias: bool = True

    def __post_init__(self):
        check_fields(self)
        period = self.period
        for name in ("encoder_layers", "decoder_layers"):
            if getattr(self, name) % period:
                option = name.replace("_", "-")
                raise UserError(
                    f"--{option} {getattr(self, name)} is not a multiple of {period}, the model's "
                    "sparse_every: every period of layers ends in a sparse one"
                )

    @property
    def sparse(self) -> bool:
        """Whether the model has experts."""
        return self.experts > 0

    @property
    def period(self) -> int:
        """Number of blocks after which the pattern of dense and sparse layers repeats."""
        return self.sparse_every if self.sparse else 1

    @property
    def joined_kv(self) -> int:
        """Width of all heads together."""
        return self.heads * self.d_kv


CHANGEABLE = (
    "d_model",
    "d_ff",
    "heads",
    "d_kv",
    "encoder_layers",
    "decoder_layers",
    "experts",
    "sparse_every",
    *OF_EXPERTS,
    "init_scale",
    "dropout_rate",
)
#: Settings in `CHANGEABLE` that do not change a model's parameters.
TUNABLE = (
    *(name for name in OF_EXPERTS if name not in ("routing", "router_init")),
    "dropout_rate",
)
_HINTS = get_type_hints(ModelConfig, include_extras=True)


class _Changes:
    def apply_to(self, model: ModelConfig) -> ModelConfig:
        changes = {name: value for name, value in vars(self).items() if value is not None}
        changed = dataclasses.replace(model, **changes)
        or_experts = ", or give --experts" if hasattr(self, "experts") else ""
        for name in (*OF_EXPERTS, "sparse_every"):
            if name in changes and not changed.sparse:
                raise UserError(
                    f"--{name.replace('_', '-')} is for models with experts; this one has none: "
                    f"leave it out{or_experts}"
                )
        return changed


def _make_fields(names: Sequence[str]) -> type[Any]:
    return dataclasses.make_dataclass(
        "_Fields", [(name, _HINTS[name] | None, None) for name in names], frozen=True
    )


class ModelChanges(_make_fields(CHANGEABLE), _Changes):
    """A run's new values for fields in `CHANGEABLE`; None keeps the preset's value."""


class TuningChanges(_make_fields(TUNABLE), _Changes):
    """New values for the model settings in `TUNABLE` in a fine-tuning; None means the default.

    The default of dropout is T5's recipe: 0.1, and 0.4 within experts (Switch Transformers,
    table 4). Other settings keep the model's value.
    """

    def apply_to(self, model: ModelConfig) -> ModelConfig:
        """Return the model with these changes."""
        recipe = {"dropout_rate": 0.1} | ({"expert_dropout_rate": 0.4} if model.sparse else {})
        return super().apply_to(dataclasses.replace(model, **recipe))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training. If a dense and a sparse run are compared, they have equal settings.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per step, over all devices.
        pack: examples that share a row of the batch without seeing each other. The examples of a
            step stay the same; rows are fewer and longer, and attention costs more. With
            `next-fit`, rows keep the maximum length of an example and take as many as fit;
            batch_size then counts rows.
        seed: seed of the data order and, independently, of parameters, jitter and dropout.
        optimizer: `adafactor` as in T5X, or Optax's `adamw`.
        schedule: schedule of the learning rate: `rsqrt`, 1/sqrt(max(step, warmup_steps)), or
            `constant`.
        base_learning_rate: factor on the schedule. Adafactor's rate is relative to a parameter's
            size; AdamW's is not and needs about a tenth.
        warmup_steps: steps of constant learning rate at the start (10,000 in T5); with AdamW, of
            linearly rising rate.
        decay: number of last steps in which the learning rate also falls linearly to zero; 0 for
            none. The run cannot be extended once it has begun to decay.
        weight_decay: weight decay of AdamW, on kernels and embeddings; Adafactor has none.
        evaluations: number of log-spaced steps whose checkpoints are kept for evaluation.
        eval_every: steps between checkpoints that are kept, in place of log-spaced ones; the last
            is also kept.
        checkpoint_every: steps between checkpoints to resume from; only the last is kept.
        on_bad_loss: reaction to a step with a loss or gradient that is not finite, or a loss that
            is a spike: `stop`, or `skip` its update.
        loss_spike: standard deviations above the mean of the last 100 losses at which a loss is a
            spike; by default no loss is.
        dtype: compute type of matrix products; parameters, routers, softmax and loss are float32.
            With `float32`, products are exact on accelerators too, and several times slower.
        loss_per: unit of equal weight in the loss: each target `token`, or each `sequence`, whose
            loss is then the mean over its tokens.
        freeze: parameters that do not change: the kernels of `experts`, or all `non-experts`.
        z_loss: weight of log(Z)^2 in the loss, which keeps logits from drifting (T5X: 1e-4).
        microbatches: parts of a batch whose gradients are added up, to save memory. Each draws its
            own jitter and dropout; without these, the step equals the whole batch's.
        loss_chunks: parts of the target length, computed one after another, to save memory for
            logits.
        remat: values that the backward pass recomputes, to save memory: `none`; `attention`, the
            attention weights, for one more product of queries and keys, which the attention kernel
            repeats anyway; or `layers`, a whole period of layers, for a third more FLOPs. On CPU
            `attention` needs `scan_layers`, or XLA undoes it.
        attention: how attention is computed in training and evaluation: `xla`; `kernel`, which
            writes no logits to a TPU's memory; `cudnn`, cuDNN's attention on NVIDIA GPUs, in
            training only; or `auto`, the kernel on TPUs v4, v5 and v6 for rows of up to 2,048
            positions and heads of 64 or 128. On CPU `kernel` is interpreted: slow.
        scan_layers: compile one period of layers and loop over it. The time to compile hardly
            depends on the model's depth; unrolled layers run faster on CPU.
        data_parallel: devices along the mesh axis `data`.
        expert_parallel: devices along the mesh axis `expert`, over which experts are sharded.
        model_parallel: devices along the mesh axis `model`, which shards each layer's width.
    """

    steps: Count = 1_000_000
    batch_size: Count = 1024
    pack: Count | Literal["next-fit"] = 1
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    optimizer: OptimizerName = "adafactor"
    schedule: Schedule = "rsqrt"
    base_learning_rate: Positive = 1.0
    warmup_steps: Count = 10_000
    weight_decay: AtLeastZero = 0.0
    decay: Annotated[int, Ge(0)] = 0
    evaluations: Count = 16
    eval_every: Count | None = None
    checkpoint_every: Count = 1000
    on_bad_loss: BadLossPolicy = "stop"
    loss_spike: Positive | None = None
    dtype: Precision = "bfloat16"
    loss_per: LossPer = "token"
    freeze: Freeze = "none"
    z_loss: AtLeastZero = 1e-4
    microbatches: Count = 1
    loss_chunks: Count = 1
    remat: Remat = "none"
    attention: AttentionChoice = "auto"
    scan_layers: bool = False
    data_parallel: Count = 1
    expert_parallel: Count = 1
    model_parallel: Count = 1

    def __post_init__(self):
        check_fields(self)
        if self.batch_size % self.row_examples:
            raise UserError(
                f"--batch-size {self.batch_size} is not a multiple of --pack {self.pack}, the "
                "examples of a row"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise UserError("--weight-decay needs --optimizer adamw")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UserError("--attention cudnn needs --dtype bfloat16")
        if self.decay > self.steps:
            raise UserError(
                f"--decay {self.decay} is more than --steps {self.steps}: give a part of them"
            )

    @property
    def row_examples(self) -> int:
        """Ratio of a row's length to an example's maximum length; 1 if `pack` is `next-fit`."""
        return self.pack if isinstance(self.pack, int) else 1

    @property
    def rows(self) -> int:
        """Number of rows in a batch."""
        return self.batch_size // self.row_examples

    @property
    def mesh(self) -> tuple[int, int, int]:
        """Number of devices along the mesh axes `data`, `expert` and `model`."""
        return self.data_parallel, self.expert_parallel, self.model_parallel

    @property
    def devices(self) -> int:
        """Number of devices the run needs."""
        return math.prod(self.mesh)


@dataclasses.dataclass(frozen=True)
class TuningConfig(TrainConfig):
    """Settings of a fine-tuning: a `TrainConfig` whose defaults are T5's recipe.

    The recipe is a constant rate of 1e-3 with Adafactor and 128 examples per step (Raffel et al.
    2020, section 3.1). Checkpoints are kept at even distances, to choose one on validation.
    """

    steps: Count = 10_000
    batch_size: Count = 128
    schedule: Schedule = "constant"
    base_learning_rate: Positive = 1e-3
    eval_every: Count | None = 1000


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """The processes that work together; by default only this process.

    Attributes:
        distributed: join the job that the environment describes: Cloud TPU, Kubernetes, Slurm or
            Open MPI, as detected by `jax.distributed`.
        coordinator_address: host:port of process 0, if the environment does not define it.
        num_processes: processes of the job, if the environment does not define them.
        process_id: number of this process in the job, from 0, if the environment does not define
            it.
        heartbeat_timeout_secs: seconds without a sign of life after which a process counts as
            lost, and the others end.
    """

    distributed: bool = False
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout_secs: Count = 100

    def __post_init__(self):
        check_fields(self)
        alone = not self.distributed and self.coordinator_address is None
        if alone and not (self.num_processes is None and self.process_id is None):
            raise UserError(
                "--num-processes and --process-id need --coordinator-address HOST:PORT of process "
                "0, or --distributed if the environment describes the job"
            )
        host, _, port = (self.coordinator_address or "host:1").rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--coordinator-address {self.coordinator_address} is not HOST:PORT: give a free "
                "port of process 0's machine"
            )

    @property
    def shared(self) -> bool:
        """Whether the job has other processes."""
        return self.distributed or self.coordinator_address is not None


_STEPS = re.compile(r"last|[0-9]+(-([0-9]+|last))?")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings for evaluating kept checkpoints.

    Attributes:
        batch_size: validation sequences per step; it changes the results only by rounding. By
            default 32, or the next number that the mesh divides.
        dtype: compute type; by default the run's own.
        dispatch: how all tokens reach their experts: in `queues`, one per expert, that grow until
            all fit; or in `blocks`, one after another on one device, whose cost does not depend on
            how uneven the routing is. By default blocks on a CPU and queues elsewhere.
        steps: checkpoints to evaluate: steps, ranges such as 1000-5000, and `last`, separated by
            commas. By default all that are kept.
        max_documents: number of documents of each language, the first ones, which are the same for
            every model and step. By default all.
        data_parallel: devices along the mesh axis `data`. If no axis is given, the mesh is the
            training's, or one device if there are fewer; if some are given, the others are 1.
        expert_parallel: devices along the mesh axis `expert`, over which experts are sharded.
        model_parallel: devices along the mesh axis `model`, which shards each layer's width.
    """

    batch_size: Count | None = None
    dtype: Precision | None = None
    dispatch: Literal["queues", "blocks"] | None = None
    steps: str = ""
    max_documents: Count | None = None
    data_parallel: Count | None = None
    expert_parallel: Count | None = None
    model_parallel: Count | None = None

    def __post_init__(self):
        check_fields(self)
        for part in self.steps.split(",") if self.steps else ():
            if not _STEPS.fullmatch(part.strip()):
                raise UserError(f"--steps {part}: give a step, a range such as 1000-5000, or last")

    def choose_steps(self, kept: Sequence[int], place: str) -> list[int]:
        """Return the kept steps that `steps` names, or by default all kept steps."""
        chosen = set[int]() if self.steps else {*kept}
        for part in self.steps.split(",") if self.steps else ():
            first, _, last = part.strip().replace("last", str(kept[-1])).partition("-")
            named = {step for step in kept if int(first) <= step <= int(last or first)}
            if not named:
                raise UserError(
                    f"--steps {part}: {place} keeps no such checkpoint; it keeps "
                    f"{', '.join(map(str, kept))}"
                )
            chosen |= named
        return sorted(chosen)


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Settings for decoding answers.

    Attributes:
        decode: `greedy` takes the likeliest token each time; `beam` searches, as T5X does; `labels`
            takes the likeliest of a closed set. By default labels if the task has them, else
            greedy.
        beams: outputs that a beam search keeps for each row.
        alpha: exponent of a beam search, which divides log-probabilities by
            ((5 + tokens) / 6) ** alpha.
        batch_size: rows of a batch, over all devices; it does not change the output.
        limit: number of rows to predict of each language, the first ones; by default all.
        dtype: compute type; by default the run's own.
        data_parallel: devices that share the rows of a batch.
        own_metrics: also score predictions by a seqio task's own metrics.
    """

    decode: DecodeName | None = None
    beams: Count = 4
    alpha: AtLeastZero = 0.6
    batch_size: Count = 32
    limit: Count | None = None
    dtype: Precision | None = None
    data_parallel: Count = 1
    own_metrics: bool = True

    def __post_init__(self):
        check_fields(self)
        if self.batch_size % self.data_parallel:
            raise UserError(
                f"--batch-size {self.batch_size} is not a multiple of --data-parallel "
                f"{self.data_parallel}"
            )


def pad_vocabulary(pieces: int) -> int:
    """Return a model's number of vocabulary rows: `pieces` rounded up to a multiple of 128."""
    return -(-pieces // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _document(kind: type, names: Sequence[str], source: type) -> None:
    """Copy the documentation of `names` from `source` to a class, for the command's help."""
    doc = inspect.cleandoc(source.__doc__ or "")
    texts = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", doc, re.M)
    kind.__doc__ = f"{inspect.cleandoc(kind.__doc__ or '')}\n\nAttributes:\n" + "\n".join(
        f"    {name}: {text}" for name, text in texts if name in names
    )


_document(ModelChanges, CHANGEABLE, ModelConfig)
_document(TuningChanges, TUNABLE, ModelConfig)
