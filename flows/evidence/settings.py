"""What is trained on which machine, and where each choice was measured."""

import dataclasses
from collections.abc import Mapping

from mswitch.flows.devices import Devices
from mswitch.models.config import ModelChanges, ModelConfig, TrainConfig
from mswitch.models.hardware import GIB, peak_flops
from mswitch.models.presets import preset
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.local_pool import available_cores
from mswitch.pipelines.supervised.build import SupervisedConfig
from mswitch.pipelines.supervised.samples.names import VOCABULARY as NAMES_VOCABULARY
from mswitch.pipelines.vocabulary.train import VocabularyConfig

#: FLOPs a second of a CPU core in training: between the 15 and 50 GFLOP/s that shared cores gave.
CPU_CORE_FLOPS = 35e9
#: Share of its peak rate that an accelerator is taken to reach in training: assumed, not measured.
#: Less than estimates of cost assume (`mswitch.flows.operators.cost`), for the models here are
#: small.
SMALL_MODELS_UTILIZATION = 0.2
NOT_MEASURED = "not measured, for no accelerator has run it yet"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is trained.

    Attributes:
        preset: its name.
        changes: of the preset, one after the other.
        base_learning_rate: its own, in place of the setting's.
    """

    preset: str
    changes: tuple[ModelChanges, ...] = ()
    base_learning_rate: float | None = None

    def config(self, vocabulary_size: int) -> ModelConfig:
        """The model as it is trained."""
        model = preset(self.preset).model
        for changes in self.changes:
            model = changes.applied_to(model)
        return dataclasses.replace(model, vocabulary_size=vocabulary_size)


def pair(
    dense: str, sparse: str, changes: ModelChanges, experts: ModelChanges | None = None
) -> dict[str, Model]:
    """A sparse model and its dense twin: two presets, changed alike but for the experts."""
    of_sparse = (changes,) if experts is None else (changes, experts)
    return {"dense": Model(dense, (changes,)), "sparse": Model(sparse, of_sparse)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Models, their data and their training, for a kind of machine.

    Attributes:
        accelerator: whether it is for one.
        memory_gib: what JAX has at least of the memory of a device.
        devices: how many there are at least.
        models: by name. There are a `dense` and a `sparse` one.
        reports: by directory, which model is the baseline, and which are compared with it. The
            first is what the evidence ends with.
        corpus: of text that is fetched; None takes the demo's.
        vocabulary: of a vocabulary that is trained.
        examples: of examples that are built.
        names: of examples of names of things, on which it trains in place of text.
        train: of all runs, but for steps, seed and mesh.
        tokens: about how many there are to train on of the text that it fetches; None where it
            takes the demo's.
        validation_records: about how many sequences an evaluation reads.
        measured: where its choices were measured.
    """

    accelerator: bool = True
    memory_gib: int = 0
    devices: int = 1
    models: Mapping[str, Model]
    reports: Mapping[str, tuple[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=lambda: {"report": ("dense", ("sparse",))}
    )
    corpus: CorpusConfig | None = None
    vocabulary: VocabularyConfig = VocabularyConfig(size=32_000)  # noqa: RUF009, it is frozen
    examples: ExamplesConfig = ExamplesConfig(inputs_length=256, validation_segments=2)  # noqa: RUF009
    names: SupervisedConfig | None = None
    train: TrainConfig
    tokens: int | None = None
    validation_records: int = 2000
    measured: str = NOT_MEASURED

    def fits(self, found: Devices) -> bool:
        """Whether the machine has what it takes."""
        return (
            self.accelerator == (found.platform != "cpu")
            and found.memory_bytes >= self.memory_gib * GIB
            and found.count >= self.devices
        )


#: 131,072 input tokens a step.
_BATCH = TrainConfig(
    batch_size=512,
    warmup_steps=1000,
    checkpoint_every=500,
    microbatches=4,
    loss_chunks=2,
    scan_layers=True,
    remat="layers",
)

#: With T5's scale of 1 and so short a warm-up both learn more slowly (docs/experiments).
_SMALL_SCALE = ModelChanges(init_scale=0.1)
#: Of models so small that two cores train them for tens of thousands of steps.
_WIDTH_64 = ModelChanges(d_model=64, d_ff=64, heads=2, d_kv=32, init_scale=1.0)
_EXPERTS_16 = ModelChanges(experts=16, sparse_every=1, capacity_factor=2.0, router_init="paper")

#: From small to large: the last one that fits a machine is taken.
SETTINGS = {
    # Text that is all knowledge: there a wider layer pays from the start.
    "names": Setting(
        accelerator=False,
        models=pair("mt5-tiny", "mswitch-tiny", _WIDTH_64, _EXPERTS_16),
        vocabulary=NAMES_VOCABULARY,
        names=SupervisedConfig(inputs_length=16, targets_length=28, allow_overlap=True),
        train=TrainConfig(
            batch_size=64,
            pack="next-fit",
            optimizer="adamw",
            base_learning_rate=0.08,
            warmup_steps=300,
            checkpoint_every=200,
            dtype="float32",
        ),
        tokens=131_000,
        validation_records=600,
        measured="docs/experiments/2026-11-28-names-in-thirty-languages.md",
    ),
    # Text as it comes. Experts gain late: after some 4,000 steps, and then more and more.
    "prose": Setting(
        accelerator=False,
        models={
            **pair("mt5-tiny", "mswitch-tiny", _WIDTH_64, _EXPERTS_16),
            # Of as many FLOPs a step as the sparse one, and of as many parameters.
            "dense-equal-flops": Model("mt5-tiny", (_WIDTH_64, ModelChanges(d_ff=133))),
            "dense-equal-parameters": Model("mt5-tiny", (_WIDTH_64, ModelChanges(d_ff=1024))),
            "hash": Model("mswitch-tiny", (_WIDTH_64, _EXPERTS_16, ModelChanges(routing="hash"))),
        },
        reports={
            "report": ("dense-equal-flops", ("sparse",)),
            "report-twin": (
                "dense",
                ("sparse", "dense-equal-flops", "dense-equal-parameters", "hash"),
            ),
        },
        corpus=CorpusConfig(
            min_lines=1,
            min_long_line_characters=1,
            language_threshold=0.7,
            language_min_bytes=0,
            # 20 documents where a language has 400, and 8 where it has few.
            validation_per_mille=50,
            min_validation_documents=8,
        ),
        vocabulary=VocabularyConfig(
            size=2048, character_coverage=0.98, sample_characters=4_000_000
        ),
        examples=ExamplesConfig(inputs_length=64, validation_segments=4),
        train=TrainConfig(
            batch_size=64,
            optimizer="adamw",
            base_learning_rate=0.08,
            warmup_steps=300,
            evaluations=20,
            checkpoint_every=1000,
            dtype="float32",
        ),
        tokens=26_100_000,
        validation_records=5300,
        measured="docs/experiments/2026-11-29-prose-trained-on.md",
    ),
    "cpu": Setting(
        accelerator=False,
        models=pair("mt5-tiny", "mswitch-tiny", _SMALL_SCALE),
        vocabulary=VocabularyConfig(size=8192, sample_characters=8_000_000),
        examples=ExamplesConfig(inputs_length=128, validation_segments=2),
        # Of four rates the best for either model after 400 steps.
        train=TrainConfig(
            batch_size=32, base_learning_rate=0.5, warmup_steps=100, checkpoint_every=200
        ),
        measured="docs/experiments/2026-11-26-sparse-and-dense-with-right-gradients.md",
    ),
    "gpu": Setting(
        memory_gib=10, models=pair("mt5-small", "mswitch-small-32", _SMALL_SCALE), train=_BATCH
    ),
    "large-gpu": Setting(
        memory_gib=28, models=pair("mt5-small", "mswitch-small-128", _SMALL_SCALE), train=_BATCH
    ),
    "slice": Setting(
        memory_gib=10,
        devices=4,
        models=pair("mt5-small", "mswitch-small-128", _SMALL_SCALE),
        train=dataclasses.replace(_BATCH, batch_size=1024, microbatches=1),
    ),
}


def find_setting(name: str) -> Setting:
    """Look a setting up."""
    if name not in SETTINGS:
        raise UserError(f"--setting: no {name!r}: choose among {', '.join(SETTINGS)}")
    return SETTINGS[name]


def setting_for(found: Devices) -> str:
    """The name of the largest setting that fits a machine."""
    fitting = [name for name, setting in SETTINGS.items() if setting.fits(found)]
    if not fitting:
        raise UserError(
            f"no setting fits {found.count} x {found.kind} with {found.memory_bytes / GIB:.0f} GiB "
            "for JAX: give --setting, or set JAX_PLATFORMS=cpu"
        )
    return fitting[-1]


def flops_per_sec(found: Devices) -> float | None:
    """What training is expected to reach on a machine; None where its peak rate is unknown."""
    if found.platform == "cpu":
        return CPU_CORE_FLOPS * available_cores()
    peak = peak_flops(found.kind)
    return peak and SMALL_MODELS_UTILIZATION * peak * found.count
