"""Models, data and training settings for each kind of machine, with paths of their experiments."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from mswitch.flows.devices_found import Devices
from mswitch.models.config import ModelChanges, ModelConfig, TrainConfig, TuningConfig
from mswitch.models.hardware import GIB, find_peak_flops
from mswitch.models.presets import preset
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.held_out import NEAR_SHARE
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.local_pool import available_cores
from mswitch.pipelines.supervised.build import SupervisedConfig
from mswitch.pipelines.supervised.samples.names import VOCABULARY as NAMES_VOCABULARY
from mswitch.pipelines.vocabulary.train import VocabularyConfig

#: FLOPs per second of a CPU core in training. With the models of `prose`, one core reached 24 to 32
#: GFLOP/s, and two cores together 30 to 46 (docs/experiments/2026-11-29-prose-trained-on.md).
CPU_CORE_FLOPS = 20e9
#: Share of its peak rate that an accelerator should reach in training: assumed, not measured. It is
#: below the share in `mswitch.flows.prefect.cost`, because these models are small.
SMALL_MODELS_UTILIZATION = 0.2
SampleName = Literal["gflanguages", "debian", "documentation", "translations"]
NOT_MEASURED = "not measured: no accelerator has run it yet"

#: Manuals have shorter paragraphs than web pages. mC4 requires lines of 200 characters.
DEBIAN_PAGES = CorpusConfig(
    min_lines=3,
    min_long_line_characters=40,
    language_threshold=0.7,
    # Enough documents are held out for a confidence interval, and few enough for 32 evaluations
    # on two cores.
    validation_per_mille=10,
    min_validation_documents=8,
)
LANGUAGE_OF = SupervisedConfig(inputs_length=64, targets_length=8)
#: Fine-tuning takes a minute for both models on two cores; only the last checkpoint is written.
#: T5's rate of 1e-3 would change the models too little in so few steps.
FINETUNE = TuningConfig(steps=80, batch_size=32, base_learning_rate=0.04, dtype="float32")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to train.

    Attributes:
        preset: name of its preset.
        changes: its differences from the preset.
    """

    preset: str
    changes: ModelChanges = ModelChanges()  # noqa: RUF009, it is frozen

    def config(self, vocabulary_size: int) -> ModelConfig:
        """Return the configuration of the model."""
        model = self.changes.apply_to(preset(self.preset).model)
        return dataclasses.replace(model, vocabulary_size=vocabulary_size)

    def changed(self, **changes: Any) -> "Model":
        """Return a copy of the model with these changes to its configuration."""
        return dataclasses.replace(self, changes=dataclasses.replace(self.changes, **changes))


def make_pair(dense: str, sparse: str, **changes: Any) -> dict[str, Model]:
    """Return a sparse model and its dense twin: two presets with the same changes."""
    return {"dense": Model(dense).changed(**changes), "sparse": Model(sparse).changed(**changes)}


def make_trio(dense: str, sparse: str, **changes: Any) -> dict[str, Model]:
    """Return a pair, and the sparse model with the token router."""
    token = Model(f"{sparse}-token").changed(**changes)
    return {**make_pair(dense, sparse, **changes), "token": token}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Models, their data and their training, for a kind of machine.

    Attributes:
        memory_gib: least memory that JAX may use on each accelerator; 0 if it is for a CPU.
        devices: least number of devices.
        models: models by name, among them `dense` and `sparse`.
        reports: baseline and candidates of each report, by directory. The command's summary is of
            the first report.
        sample: text to download by default.
        corpus: settings of a corpus from downloaded text.
        decontaminate: held-out pages are removed from this corpus if training text contains this
            share of them, or more; 0 removes none.
        vocabulary: settings of a vocabulary that is trained.
        examples: settings of examples that are built.
        names: settings of examples of names of things, to train on in place of text.
        train: settings of all runs, except seed, mesh, and steps from a budget or a person.
        together: whether the models of a seed are trained side by side.
        fixed: whether the default steps are those of `train`, in place of the budget's.
        timed: whether reports compare wall-clock times, which differ each time.
        finetune: settings of fine-tuning the first report's models, each with its first seed, to
            tell languages apart; None leaves it out.
        tokens: approximate training tokens of the downloaded text; larger vocabularies make fewer.
        row_tokens: approximate number of these tokens in a row of a batch, if it packs pairs.
        validation_records: approximate number of sequences in an evaluation.
        measured: where its choices were measured.
    """

    memory_gib: int = 0
    devices: int = 1
    models: Mapping[str, Model]
    reports: Mapping[str, tuple[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=lambda: {"report": ("dense", ("sparse",))}
    )
    sample: SampleName = "debian"
    corpus: CorpusConfig = DEBIAN_PAGES
    decontaminate: float = 0.0
    vocabulary: VocabularyConfig = VocabularyConfig(size=32_000)  # noqa: RUF009, it is frozen
    examples: ExamplesConfig = ExamplesConfig(inputs_length=256, validation_segments=2)  # noqa: RUF009
    names: SupervisedConfig | None = None
    train: TrainConfig
    together: bool = False
    fixed: bool = False
    timed: bool = False
    finetune: TuningConfig | None = None
    tokens: int = 19_300_000
    row_tokens: float = 0.0
    validation_records: int = 2000
    measured: str = NOT_MEASURED

    def fits(self, machine: Devices) -> bool:
        """Return whether the machine has the platform, memory and devices that a setting needs."""
        return (
            (self.memory_gib > 0) == (machine.platform != "cpu")
            and machine.memory_bytes >= self.memory_gib * GIB
            and machine.count >= self.devices
        )

    def only(self, names: Collection[str]) -> "Setting":
        """Return a copy that has only the named models and the reports that compare them."""
        if unknown := [name for name in names if name not in self.models]:
            raise UserError(f"--models: no {unknown[0]!r}: choose among {', '.join(self.models)}")
        reports = {
            folder: (baseline, compared)
            for folder, (baseline, candidates) in self.reports.items()
            if baseline in names and (compared := tuple(c for c in candidates if c in names))
        }
        if not reports:
            pairs = [f"{of},{c}" for of, others in self.reports.values() for c in others]
            raise UserError(
                f"--models {','.join(names)}: no report compares these: give {' or '.join(pairs)}"
            )
        models = {name: model for name, model in self.models.items() if name in names}
        return dataclasses.replace(self, models=models, reports=reports)


#: A batch has 131,072 input tokens.
_BATCH = TrainConfig(
    batch_size=512,
    warmup_steps=1000,
    checkpoint_every=500,
    microbatches=4,
    loss_chunks=2,
    scan_layers=True,
    remat="layers",
)

#: Models small enough to train on two cores for tens of thousands of steps.
_SMALL = make_pair(
    "mt5-tiny", "mswitch-tiny", d_model=64, d_ff=64, heads=2, d_kv=32, init_scale=1.0
)
_DENSE = _SMALL["dense"]
_SPARSE = _SMALL["sparse"].changed(
    experts=16, sparse_every=1, capacity_factor=2.0, router_init="paper"
)
#: Capacity factor 1 drops 13 to 20 % of positions. Compared with factor 2, it needs a sixth fewer
#: FLOPs, and its loss is 0.005 nats higher.
_TIGHT = _SPARSE.changed(capacity_factor=1.0)


def _make_reports(models: Mapping[str, Model]) -> dict[str, tuple[str, tuple[str, ...]]]:
    experts = tuple(name for name in models if not name.startswith("dense"))
    others = tuple(name for name in models if name != "dense")
    return {"report": ("dense-equal-flops", experts), "report-twin": ("dense", others)}


_OF_MESSAGES = {
    "dense": _DENSE,
    "sparse": _TIGHT,
    # The next two models equal `sparse`: the first in FLOPs per step, the second in parameters.
    "dense-equal-flops": _DENSE.changed(d_ff=69),
    "dense-equal-parameters": _DENSE.changed(d_ff=1024),
    # `hash` has the number of experts of `sparse`. `hash-32` has twice this number at equal FLOPs.
    "hash": _TIGHT.changed(routing="hash"),
    "hash-32": _TIGHT.changed(routing="hash", experts=32),
}
#: The text is mostly interface messages. The gain of sparse over dense models begins after some
#: 4,000 steps, and grows.
_MESSAGES = Setting(
    models=_OF_MESSAGES,
    reports=_make_reports(_OF_MESSAGES),
    corpus=CorpusConfig(
        min_lines=1,
        min_long_line_characters=1,
        language_threshold=0.7,
        language_min_bytes=0,
        validation_per_mille=50,
        min_validation_documents=8,
    ),
    vocabulary=VocabularyConfig(size=2048, character_coverage=0.98, sample_characters=4_000_000),
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
)

_OF_PROSE = {
    **{name: model for name, model in _OF_MESSAGES.items() if name != "hash"},
    # This model's FLOPs per step equal those of the most expensive models (32 experts, a router).
    "dense-equal-flops": _DENSE.changed(d_ff=75),
    "sparse-32": _TIGHT.changed(experts=32),
    "token-32": _TIGHT.changed(routing="token", experts=32),
}

_BOTH_ROUTERS = {"report": ("dense", ("sparse", "token"))}

#: Settings by name, in order of size: `choose_setting` takes the last that fits a machine.
SETTINGS = {
    # It takes minutes on two cores.
    "demo": Setting(
        models=make_pair("mt5-tiny", "mswitch-tiny"),
        corpus=CorpusConfig(
            # A page has a few sentences. mC4's rule (3 lines, the third longest of 200 characters)
            # would drop nearly all pages, and every Chinese, Japanese and Korean page.
            min_lines=1,
            min_long_line_characters=1,
            # mC4 3.0.1's threshold; 3.1.0's 0.95 is for whole web pages.
            language_threshold=0.7,
            language_min_bytes=0,
            # A language's confidence interval needs at least five validation pages.
            validation_per_mille=200,
            min_validation_documents=5,
        ),
        vocabulary=VocabularyConfig(size=4096, character_coverage=0.9995),
        examples=ExamplesConfig(inputs_length=64),
        train=TrainConfig(steps=400, batch_size=32, warmup_steps=100, evaluations=16),
        fixed=True,
        timed=True,
        finetune=FINETUNE,
        tokens=70_000,
        measured="docs/experiments/2026-11-24-the-demos-pair.md",
    ),
    # The gain shows after a thousand steps, because the text is larger and the router knows the
    # token.
    "translations": dataclasses.replace(
        _MESSAGES,
        models={name: _OF_PROSE[name] for name in ("dense", "token-32")},
        reports={"report": ("dense", ("token-32",))},
        sample="translations",
        corpus=CorpusConfig(
            min_lines=1,
            min_long_line_characters=1,
            language_threshold=0.7,
            language_min_bytes=0,
            validation_per_mille=80,
            min_validation_documents=24,
        ),
        # Programs share phrases. At half, 5 % of held-out text recurs in training text.
        decontaminate=0.1,
        examples=ExamplesConfig(inputs_length=64, validation_segments=3),
        train=dataclasses.replace(_MESSAGES.train, steps=1500, evaluations=14),
        together=True,
        fixed=True,
        tokens=5_000_000,
        validation_records=5000,
        measured="docs/experiments/2026-12-07-the-demos-translations.md",
    ),
    "demo-debian": Setting(
        models=make_pair("mt5-tiny", "mswitch-tiny"),
        vocabulary=VocabularyConfig(size=8192, sample_characters=8_000_000),
        examples=ExamplesConfig(inputs_length=128, validation_segments=2),
        train=TrainConfig(steps=600, batch_size=32, warmup_steps=100, evaluations=16),
        fixed=True,
        timed=True,
        measured="docs/experiments/2026-11-27-the-pair-on-debians-text-again.md",
    ),
    # Each example is a fact to memorise: a translated name. Wider layers help to memorise facts
    # from the first steps.
    "names": Setting(
        models={"dense": _DENSE, "sparse": _SPARSE},
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
        row_tokens=28.4,
        validation_records=600,
        measured="docs/experiments/2026-11-28-names-in-thirty-languages.md",
    ),
    "messages": _MESSAGES,
    "prose": dataclasses.replace(
        _MESSAGES,
        models=_OF_PROSE,
        reports=_make_reports(_OF_PROSE),
        sample="documentation",
        corpus=CorpusConfig(
            profile="modern",
            # Deduplication keeps repeated footers and notices of manuals out of held-out text.
            dedup_scope="language",
            # Partly translated pages mix languages, so their language is undetermined.
            keep_und=False,
            min_lines=1,
            min_long_line_characters=40,
            # Help pages are short. Khmer text has a low share of alphabetic words, because the rule
            # counts combining marks as words without letters.
            set=("quality.min_words=20", "quality.min_alphabetic_word_share=0.4"),
            validation_per_mille=10,
            min_validation_documents=60,
        ),
        decontaminate=NEAR_SHARE,
        tokens=63_600_000,
        validation_records=9600,
        measured="docs/experiments/2026-12-01-documentation-trained-on.md",
    ),
    "cpu": Setting(
        # With T5's scale of 1 and this short warm-up, both models learn more slowly
        # (docs/experiments).
        models=make_trio("mt5-tiny", "mswitch-tiny", init_scale=0.1),
        reports=_BOTH_ROUTERS,
        vocabulary=VocabularyConfig(size=8192, sample_characters=8_000_000),
        examples=ExamplesConfig(inputs_length=128, validation_segments=2),
        # Of four learning rates, this one is the best for both models after 400 steps.
        train=TrainConfig(
            batch_size=32, base_learning_rate=0.5, warmup_steps=100, checkpoint_every=200
        ),
        measured="docs/experiments/2026-11-26-sparse-and-dense-with-right-gradients.md",
    ),
    "gpu": Setting(
        memory_gib=10,
        models=make_trio("mt5-small", "mswitch-small-32", init_scale=0.1),
        reports=_BOTH_ROUTERS,
        train=_BATCH,
    ),
    "large-gpu": Setting(
        memory_gib=28,
        models=make_trio("mt5-small", "mswitch-small-128", init_scale=0.1),
        reports=_BOTH_ROUTERS,
        train=_BATCH,
    ),
    "slice": Setting(
        memory_gib=10,
        devices=4,
        models=make_trio("mt5-small", "mswitch-small-128", init_scale=0.1),
        reports=_BOTH_ROUTERS,
        train=dataclasses.replace(_BATCH, batch_size=1024, microbatches=1),
    ),
}


def find_setting(name: str) -> Setting:
    """Look up a setting by name."""
    if name not in SETTINGS:
        raise UserError(f"--setting: no {name!r}: choose among {', '.join(SETTINGS)}")
    return SETTINGS[name]


def choose_setting(machine: Devices) -> str:
    """Return the name of the last setting in `SETTINGS` that fits a machine."""
    fitting = [name for name, setting in SETTINGS.items() if setting.fits(machine)]
    if not fitting:
        raise UserError(
            f"no setting fits {machine.count} x {machine.kind} with "
            f"{machine.memory_bytes / GIB:.0f} GiB for JAX: give --setting, or set "
            "JAX_PLATFORMS=cpu"
        )
    return fitting[-1]


def estimate_flops_per_sec(machine: Devices) -> float | None:
    """Return the FLOP/s that training should reach here; None if the peak rate is unknown."""
    if machine.platform == "cpu":
        return CPU_CORE_FLOPS * available_cores()
    peak = find_peak_flops(machine.kind)
    return peak and SMALL_MODELS_UTILIZATION * peak * machine.count
