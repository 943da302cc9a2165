"""What a model, a training run, its job and its evaluation are made of.

The named models themselves are in `mswitch.models.presets`.
"""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError

#: Rows of the embedding and columns of the logits are a multiple of this (T5's padding rule:
#: 250,100 pieces of mT5 give 250,112 rows; it lets the axis be sharded up to 128 ways).
VOCABULARY_MULTIPLE = 128

BalanceScope = Literal["group", "global"]
Precision = Literal["bfloat16", "float32"]
RouterInit = Literal["flaxformer", "paper"]
Routing = Literal["learned", "token", "hash"]
OptimizerName = Literal["adafactor", "adamw"]
BadLossPolicy = Literal["stop", "skip"]
Remat = Literal["none", "attention", "layers"]
AttentionChoice = Literal["auto", "kernel", "xla"]
Schedule = Literal["rsqrt", "constant"]
LossPer = Literal["token", "sequence"]
Freeze = Literal["none", "experts", "non-experts"]
DecodeName = Literal["greedy", "beam", "labels"]

AtLeastZero = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
#: A probability that something is left out.
Rate = Annotated[float, Ge(0), Lt(1)]

#: Settings of a model that mean something where it has experts.
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
        d_ff: width of the feed-forward intermediate, of a dense layer and of one expert alike.
        heads: attention heads.
        d_kv: width of one head; `heads * d_kv` need not be `d_model`.
        encoder_layers: blocks of the encoder.
        decoder_layers: blocks of the decoder.
        activation: `geglu` (two input projections, as mT5) or `relu` (one, as released Switch).
        tied_embeddings: whether the logits reuse the embedding (then scaled by d_model^-0.5).
        experts: experts of a sparse layer; 0 makes every layer dense.
        sparse_every: the last of each `sparse_every` blocks is sparse; 1 makes all sparse.
        routing: who chooses a token's expert: a `learned` router, as in the paper; a `token`
            router, also learned, which adds logits from a table with a row for each token id; or a
            `hash` of the token's id (Roller et al. 2021), a control: experts then only add
            parameters. The table has vocabulary_size x experts parameters in each sparse layer.
        capacity_factor: slots of all experts of a group over its token positions, in training.
        group_size: positions routed together, of the encoder or of the decoder; a group is whole
            sequences.
        balance_weight: weight of the load-balance loss, summed over sparse layers.
        balance_scope: what is to be balanced: each routing `group`, as in the paper, or the batch
            as a whole (`global`, arXiv 2501.11873), which lets groups of one language specialise.
        router_z_weight: weight of the router's z-loss (ST-MoE), summed over sparse layers.
        router_jitter: half width of the multiplicative noise on the router's input in training.
        router_dtype: compute type of routers: `float32` within a bfloat16 model is the paper's
            selective precision (section 2.4); `bfloat16` is there for comparison.
        router_init: how a router's kernel is drawn: `flaxformer`, normal with deviation 0.02, as
            released Switch models were; `paper`, truncated normal with variance 0.1 / d_model
            (section 2.4), which gives logits a deviation of 0.32 at any width. Over three seeds of
            `mswitch-tiny` neither was better (docs/experiments).
        init_scale: variance scale of kernels; 0.1 in Switch Transformers (section 2.4).
        dropout_rate: dropout after embedding, attention, feed-forward and final norm.
        expert_dropout_rate: dropout on an expert's intermediate (0.4 in fine-tuning).
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: distance at which the last bucket begins.
        shared_position_bias: whether the layers of a stack share one table of position biases, as
            in T5 and mT5, or each has its own, as in umT5.
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
        """Blocks after which the pattern of dense and sparse layers repeats."""
        return self.sparse_every if self.sparse else 1

    @property
    def joined_kv(self) -> int:
        """Width of all heads together."""
        return self.heads * self.d_kv


#: Settings of a preset that a run may change.
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
#: Those of them that leave the parameters what they are.
TUNABLE = (
    *(name for name in OF_EXPERTS if name not in ("routing", "router_init")),
    "dropout_rate",
)
_HINTS = get_type_hints(ModelConfig, include_extras=True)


class _Changes:
    """Fields of `ModelConfig` that are to be others; None leaves one as it is."""

    def applied_to(self, model: ModelConfig) -> ModelConfig:
        """The model with these changes."""
        changes = {name: value for name, value in vars(self).items() if value is not None}
        changed = dataclasses.replace(model, **changes)
        for name in (*OF_EXPERTS, "sparse_every"):
            if name in changes and not changed.sparse:
                raise UserError(
                    f"--{name.replace('_', '-')} is for models with experts; this one has none: "
                    "leave it out, or give --experts"
                )
        return changed


def _fields_of_model(names: Sequence[str]) -> type[Any]:
    return dataclasses.make_dataclass(
        "_Fields", [(name, _HINTS[name] | None, None) for name in names], frozen=True
    )


class ModelChanges(_fields_of_model(CHANGEABLE), _Changes):
    """What a run changes of its preset: any of `CHANGEABLE`; None leaves it as it is."""


class TuningChanges(_fields_of_model(TUNABLE), _Changes):
    """What fine-tuning changes of a model: any of `TUNABLE`; None is T5's recipe, else as it was.

    T5's recipe is dropout of 0.1, and of 0.4 within experts (Switch Transformers, table 4).
    """

    def applied_to(self, model: ModelConfig) -> ModelConfig:
        """The model with these changes."""
        recipe = {"dropout_rate": 0.1} | ({"expert_dropout_rate": 0.4} if model.sparse else {})
        return super().applied_to(dataclasses.replace(model, **recipe))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Dense and sparse runs that are compared share all of it.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per step, over all devices.
        pack: examples that share a row of the batch, each as if it were alone. The examples of a
            step stay the same; rows are fewer and longer, and attention costs more. With
            `next-fit` rows stay as long as an example may be and take as many as fit; batch_size
            then counts rows.
        seed: seed of the data order and, apart from it, of parameters, jitter and dropout.
        optimizer: `adafactor`, as T5X has it, or `adamw`, Optax's.
        schedule: schedule of the learning rate: `rsqrt`, 1/sqrt(max(step, warmup_steps)), or
            `constant`.
        base_learning_rate: factor on the schedule. Adafactor's rate is relative to a parameter's
            size; AdamW's is not and needs about a tenth.
        warmup_steps: steps during which the learning rate stays constant (10,000 in T5); with
            AdamW, during which it rises linearly.
        decay: last steps, over which the learning rate also falls in a straight line, to zero at
            the end; 0 for none. The run cannot be extended once it has begun to decay.
        weight_decay: weight decay of AdamW, on kernels and embeddings; Adafactor has none.
        evaluations: log-spaced steps whose checkpoints are kept for evaluation.
        eval_every: keep the checkpoint of every so many steps, and of the last, in place of
            log-spaced ones.
        checkpoint_every: also save every so many steps, to resume from; only the last is kept.
        on_bad_loss: what to do about a step whose loss or gradient is not finite, or whose
            loss is a spike: `stop`, or leave out its update (`skip`).
        loss_spike: a loss is a spike if it is so many standard deviations above the mean of the
            last 100; by default none is.
        dtype: compute type of matrix products; parameters, routers, softmax and loss are float32.
            With `float32` products are exact on accelerators too, and several times slower.
        loss_per: what weighs the same in the loss: each target `token`, or each `sequence`, whose
            loss is then the mean over its tokens.
        freeze: parameters that stay as they are: the kernels of `experts`, or all `non-experts`.
        z_loss: weight of log(Z)^2 in the loss, which keeps logits from drifting (T5X: 1e-4).
        microbatches: parts of a batch whose gradients are added up, to save memory; each draws its
            own jitter and dropout, without which the step is that of the whole batch.
        loss_chunks: parts of the target length whose logits exist at one time, to save memory.
        remat: what the backward pass recomputes, to save memory: `none`; `attention`, the weights
            of attention, for a product of queries and keys more, which attention by the kernel
            computes anyway; `layers`, all of a period of them, for a third more FLOPs. On CPU
            `attention` needs `scan_layers`: XLA undoes it.
        attention: what computes attention in training and evaluation: `xla`; `kernel`, which writes
            no logits to a TPU's memory; or `auto`, the kernel on TPUs v4, v5 and v6 with rows of up
            to 2,048 positions and heads of 64 or 128. On CPU `kernel` is interpreted: slowly.
        scan_layers: compile one period of layers and loop over it. Compiles in nearly constant
            time however deep the model; unrolled runs faster on CPU.
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
        if self.decay > self.steps:
            raise UserError(
                f"--decay {self.decay} is more than --steps {self.steps}: give a part of them"
            )

    @property
    def row_examples(self) -> int:
        """By how many examples rows are longer than one: 1 with `next-fit`."""
        return self.pack if isinstance(self.pack, int) else 1

    @property
    def rows(self) -> int:
        """Rows of a batch."""
        return self.batch_size // self.row_examples

    @property
    def devices(self) -> int:
        """Devices the run needs."""
        return self.data_parallel * self.expert_parallel * self.model_parallel


@dataclasses.dataclass(frozen=True)
class TuningConfig(TrainConfig):
    """How a model is fine-tuned: a `TrainConfig` that begins with T5's recipe.

    A constant rate of 1e-3 with Adafactor and 128 examples a step (Raffel et al. 2020, section
    3.1); checkpoints are kept at even distances, to choose among them on validation.
    """

    steps: Count = 10_000
    batch_size: Count = 128
    schedule: Schedule = "constant"
    base_learning_rate: Positive = 1e-3
    eval_every: Count | None = 1000


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """Which processes work together; by default this one alone.

    Attributes:
        distributed: join the job that the environment describes: Cloud TPU, Kubernetes, Slurm,
            Open MPI, as `jax.distributed` finds it.
        coordinator_address: host:port of process 0, where the environment does not say it.
        num_processes: processes of the job, where the environment does not say it.
        process_id: number of this process in the job, from 0, where the environment does not say
            it.
        heartbeat_timeout_secs: after this long without a sign of life a process counts as lost,
            and ends the others.
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
                "0, or --distributed where the environment says it"
            )
        host, _, port = (self.coordinator_address or "host:1").rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--coordinator-address {self.coordinator_address} is not HOST:PORT: give a free "
                "port of process 0's machine"
            )

    @property
    def shared(self) -> bool:
        """Whether there are other processes."""
        return self.distributed or self.coordinator_address is not None


#: A part of `EvaluateConfig.steps`.
_STEPS = re.compile(r"last|[0-9]+(-([0-9]+|last))?")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How kept checkpoints are evaluated.

    Attributes:
        batch_size: validation sequences per step; it does not change the results but for rounding.
            By default 32, or the next number that the mesh divides.
        dtype: compute type; None takes the run's own.
        dispatch: how tokens reach their experts without a drop: `queues`, one an expert, that grow
            until all fit; or `blocks`, whose cost does not depend on how uneven the routing is, one
            block after another, on one device. By default blocks on a CPU and queues elsewhere.
        steps: checkpoints to evaluate: steps, ranges such as 1000-5000, and `last`, separated by
            commas. By default all that are kept.
        max_documents: number of documents of each language, the first ones, which are the same for
            every model and step. By default all.
        data_parallel: devices along the mesh axis `data`. If no axis is given, the mesh is that of
            the training, or one device where there are fewer; an axis that alone is not given is 1.
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
        """Return those of the steps that a run keeps that `steps` names, all by default."""
        chosen = set[int]() if self.steps else {*kept}
        for part in self.steps.split(",") if self.steps else ():
            first, _, last = part.strip().replace("last", str(kept[-1])).partition("-")
            named = {step for step in kept if int(first) <= step <= int(last or first)}
            if not named:
                raise UserError(
                    f"--steps {part}: {place} keeps no such checkpoint, but those of "
                    f"{', '.join(map(str, kept))}"
                )
            chosen |= named
        return sorted(chosen)


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How answers are found.

    Attributes:
        decode: `greedy` takes the likeliest token each time; `beam` searches, as T5X does; `labels`
            takes the likeliest of a closed set. By default labels where the task has them, and
            greedy where not.
        beams: outputs that a beam search keeps of each row.
        alpha: a beam search divides log-probabilities by ((5 + tokens) / 6) ** alpha.
        batch_size: rows of a batch, over all devices; it does not change what is written.
        limit: predict only the first so many rows of each language.
        dtype: compute type; None takes the run's own.
        data_parallel: devices among which the rows of a batch are divided.
        own_metrics: whether a task of seqio scores predictions by its own metrics too.
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


def padded_vocabulary(pieces: int) -> int:
    """Rows a model has for a vocabulary of `pieces`: the next multiple of 128."""
    return -(-pieces // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _documented(kind: type, names: Sequence[str], source: type) -> None:
    """Give a class the documentation of `names` in `source`: the command's help is made of it."""
    doc = inspect.cleandoc(source.__doc__ or "")
    texts = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", doc, re.M)
    kind.__doc__ = f"{inspect.cleandoc(kind.__doc__ or '')}\n\nAttributes:\n" + "\n".join(
        f"    {name}: {text}" for name, text in texts if name in names
    )


_documented(ModelChanges, CHANGEABLE, ModelConfig)
_documented(TuningChanges, TUNABLE, ModelConfig)
