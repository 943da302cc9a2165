"""Settings in the forms of Prefect flows. A flow can run with its defaults, the demo's settings.

A name is a directory below the storage of all runs (`mswitch.flows.prefect.operators_toml`). A form
begins with the fields in `everyday`. `training.steps` among them is the parameter `steps`, outside
the group `training`.
"""

import dataclasses
import zoneinfo
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field

from mswitch.flows.chains.machine_settings import FINETUNE, SETTINGS, SampleName
from mswitch.flows.prefect.operators_toml import Name, PairName, RunName
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.models.config import EvaluateConfig, PredictConfig, TrainConfig, TuningConfig
from mswitch.models.presets import PRESETS
from mswitch.pipelines.config_checks import Count, Share, check_fields
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.runners import RunnerName
from mswitch.pipelines.samples.common_crawl import CrawlFormat
from mswitch.pipelines.vocabulary.train import VocabularyConfig
from mswitch.tasks.batches.mixtures import DEFAULT

_DEMO = SETTINGS["demo"]

if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[tuple(PRESETS)]


Dump = Annotated[str, Field(pattern=r"^(latest|CC-MAIN-\d{4}(-\d{2}|-\d{4})?)$")]
Template = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9]|\{(date|dump)\})([A-Za-z0-9._-]|\{(date|dump)\}){0,60}$")
]
Usd = Annotated[float, Gt(0)]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Marks a field that holds parameters of another flow.

    Attributes:
        settings: the settings of that flow.
        given: parameters of the other flow that this flow sets.
    """

    settings: type
    given: tuple[str, ...]


class _Settings:
    everyday: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSettings(_Settings):
    """Settings of flow `corpus`.

    Attributes:
        name: name of the corpus.
        inputs: crawl files: paths, globs or URLs (gs://, s3://, https://) of WET, WARC, ARC, JSONL
            or Parquet files; none for a small sample.
        sample: the sample, if there are no inputs: gflanguages (100 languages, kilobytes) or
            debian (about 100 languages, megabytes; needs apt-get).
        badwords: a directory of bad-word lists in the layout of LDNOOBW, or its URL; empty for
            none.
        append: add the inputs to the finished corpus of this name.
        runner: Beam runner of the build; dataflow needs [dataflow] in operators.toml.
        launcher: where the build is started: a launcher of operators.toml.
        max_cost_usd: USD by Dataflow's meters at which the build stops, saved; a run with a higher
            limit continues it.
        build: validation, shards, fields of JSONL, and thresholds of rules.
    """

    everyday = (
        *("name", "inputs", "sample", "build.profile", "build.languages", "badwords", "append"),
        *("runner", "launcher", "max_cost_usd"),
    )
    name: Name = "sample"
    inputs: tuple[str, ...] = ()
    sample: SampleName = "gflanguages"
    badwords: str = ""
    append: bool = False
    runner: RunnerName = "local"
    launcher: Name = "local"
    max_cost_usd: Usd | None = None
    build: CorpusConfig = _DEMO.corpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppendSettings(_Settings):
    """Settings of flow `append-crawl`.

    Attributes:
        name: name of the corpus to extend; it keeps its settings.
        inputs: files to add in place of a dump: paths, globs or URLs, as in flow `corpus`.
        dump: a dump of Common Crawl such as CC-MAIN-2024-10, or `latest`.
        segments: number of files of the dump to take, spread evenly over it.
        format: WET (text) or WARC (HTML).
        launcher: where the build is started: a launcher of operators.toml.
    """

    everyday = ("name", "inputs", "dump", "segments", "format", "launcher")
    name: Name = "sample"
    inputs: tuple[str, ...] = ()
    dump: Dump = "latest"
    segments: Annotated[int, Ge(1), Le(100_000)] = 1
    format: CrawlFormat = "wet"
    launcher: Name = "local"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesSettings(_Settings):
    """Settings of flow `examples`.

    Attributes:
        name: name of the examples, and of the vocabulary trained for them.
        corpus: name of the corpus.
        vocabulary_file: a vocabulary directory or SentencePiece model to use, such as mT5's own,
            or its URL; empty to train one.
        max_unknown_share: largest share of unknown tokens in a language; with more, the examples
            are not built.
        max_tokens_per_word: most tokens per word in a language whose script separates words; with
            more, the examples are not built.
        launcher: where the work is started: a launcher of operators.toml.
        vocabulary: text to train the vocabulary on, and characters to cover.
        examples: spans, validation, shards.
    """

    everyday = (
        *("name", "corpus", "vocabulary_file", "vocabulary.size", "examples.inputs_length"),
        *("max_unknown_share", "max_tokens_per_word", "launcher"),
    )
    name: Name = "sample"
    corpus: Name = "sample"
    vocabulary_file: str = ""
    max_unknown_share: Share = 0.01
    max_tokens_per_word: Annotated[float, Ge(1)] = 20.0
    launcher: Name = "local"
    vocabulary: VocabularyConfig = _DEMO.vocabulary
    examples: ExamplesConfig = _DEMO.examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(_Settings):
    """Settings of flows that train.

    Attributes:
        hosts: processes of each training, each on its own node.
        launcher: where all jobs run: a launcher of operators.toml.
        max_cost_usd: limit of the whole cost, over all attempts. A higher estimate needs approval
            first; at the limit all is saved and paused. The launcher needs a price in
            operators.toml.
    """

    hosts: Count = 1
    launcher: Name = "local"
    max_cost_usd: Usd | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSettings(TrainingSettings):
    """Settings of flows that train models, evaluate them and compare them with a baseline.

    Attributes:
        examples: name of the examples.
        baseline: preset of the dense model.
        evaluate_while_training: evaluate each checkpoint as it is saved.
        training: seed, batch size, optimizer, schedule, checkpoints, precision, memory, devices.
        evaluation: batch size, precision, documents, devices.
        report: resamples, seed and confidence of the intervals.
    """

    examples: Name = "sample"
    baseline: PresetName = "mt5-tiny"
    evaluate_while_training: bool = True
    training: TrainConfig = dataclasses.replace(_DEMO.train, checkpoint_every=100)  # noqa: RUF009, it is frozen
    evaluation: EvaluateConfig = EvaluateConfig()  # noqa: RUF009
    report: ReportConfig = ReportConfig()  # noqa: RUF009


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSettings(ComparisonSettings):
    """Settings of flow `pretrain-pair`.

    Attributes:
        name: name of the pair: its runs and report are in a directory of that name.
        candidate: preset of the model that should learn faster: with the paper's router, such as
            mswitch-base, or with the token router, such as mswitch-base-token.
        begin_with: name of a finished pair. The trainings continue from its runs, with their
            moments and counts of steps, on these examples, such as those of a corpus that grew.
            Empty to begin with random parameters. Flow `refresh` also accepts `{previous}`.
        mixture: sampling rate of each language: a name from `mswitch mixture list`, a seqio task
            such as mc4.de, or a TOML file.
    """

    everyday = (
        *("name", "examples", "baseline", "candidate", "training.steps", "mixture", "launcher"),
        *("hosts", "max_cost_usd"),
    )
    name: Name = "sample"
    candidate: PresetName = "mswitch-tiny"
    begin_with: PairName = ""
    mixture: str = DEFAULT


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefreshSettings(_Settings):
    """Settings of flow `refresh`.

    Attributes:
        corpus: name of the corpus to extend, which flow `corpus` built.
        examples: name of the examples to make from it. In names, `{dump}` stands for the added
            dump, and `{date}` for the day for which the run is scheduled.
        pair: name of the pair to train on them.
        inputs: files to add in place of a dump: paths, globs or URLs, in which `{date}` stands for
            that day.
        dump: the dump to add, such as CC-MAIN-2024-10, or `latest`.
        timezone: the time zone of `{date}`, such as Europe/Berlin.
        append_deployment: the deployment that adds the dump or inputs; `none` to add none.
        examples_deployment: the deployment that makes the examples; `none` to make none.
        pair_deployment: the deployment that trains the pair and reports; `none` to train none.
        examples_parameters: changes of the deployment that makes the examples.
        pair_parameters: changes of the deployment that trains the pair. Its `begin_with` may be
            `{previous}`: the last finished pair before this with a name of the same form, or random
            parameters if there is none.
    """

    everyday = (
        *("corpus", "examples", "pair", "inputs", "dump", "timezone"),
        *("append_deployment", "examples_deployment", "pair_deployment"),
    )

    corpus: Name = "mc4"
    examples: Template = "mc4-{dump}"
    pair: Template = "base-{dump}"
    inputs: tuple[str, ...] = ()
    dump: Dump = "latest"
    timezone: str = "UTC"
    append_deployment: str = "append-crawl-monthly"
    examples_deployment: str = "examples-mt5"
    pair_deployment: str = "pretrain-pair-base"
    examples_parameters: Annotated[
        dict[str, Any], Parameters(ExamplesSettings, ("name", "corpus"))
    ] = dataclasses.field(default_factory=dict)
    pair_parameters: Annotated[dict[str, Any], Parameters(PairSettings, ("name", "examples"))] = (
        dataclasses.field(default_factory=dict)
    )

    def __post_init__(self):
        super().__post_init__()
        if self.timezone not in zoneinfo.available_timezones():
            raise UserError(f"timezone {self.timezone!r} is unknown: give one like Europe/Berlin")
        if self.inputs and "{dump}" in f"{self.examples}{self.pair}":
            raise UserError("with inputs there is no dump to name: use {date} in place of {dump}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentSettings(ComparisonSettings):
    """Settings of flow `experiment`.

    Attributes:
        name: name of the experiment: its report is in a directory of that name.
        candidates: presets to compare with the baseline, each on its own, such as mswitch-base and
            mswitch-base-token (token router).
        seeds: each model is trained once with each seed; they replace the field `seed`.
        mixtures: each model is trained once with each seed on each mixture, and each mixture has a
            report. A mixture sets the sampling rate of each language: a name from `mswitch mixture
            list`, a seqio task such as mc4.de, or a TOML file.
        max_parallel: number of trainings at a time. On this machine the default and the most is
            `trainings` of operators.toml; a scheduler gets all of them.
    """

    everyday = (
        *("name", "examples", "baseline", "candidates", "seeds", "training.steps", "mixtures"),
        *("launcher", "max_cost_usd"),
    )
    name: Name = "sample"
    candidates: Annotated[tuple[PresetName, ...], Field(min_length=1)] = ("mswitch-tiny",)
    seeds: Annotated[tuple[Annotated[int, Ge(0), Le(2**32 - 1)], ...], Field(min_length=1)] = (0, 1)
    mixtures: Annotated[tuple[str, ...], Field(min_length=1)] = (DEFAULT,)
    max_parallel: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """Settings of flow `finetune`.

    Attributes:
        name: name of the fine-tuned run.
        run: the run to begin with: pairs/NAME/PRESET, runs/NAME or finetuned/NAME.
        step: the checkpoint of that run to begin with; by default the last.
        keep_moments: keep the optimizer's moments and its count of steps, as T5X does.
        tasks: name of the task's examples, which `mswitch examples supervised` made.
        mixture: sampling rate of each language: a name from `mswitch mixture list`, a seqio task
            such as mc4.de, or a TOML file.
        training: seed, batch size, learning rate, checkpoints, precision, memory, devices.
        predictions: method of decoding answers, and number of rows.
    """

    everyday = (
        *("name", "run", "tasks", "training.steps", "mixture", "launcher", "hosts"),
        "max_cost_usd",
    )
    name: Name = "sample"
    run: RunName = "pairs/sample/mt5-tiny"
    step: Count | None = None
    keep_moments: bool = False
    tasks: Name = "language-of"
    mixture: str = DEFAULT
    training: TuningConfig = FINETUNE
    predictions: PredictConfig = PredictConfig()  # noqa: RUF009


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings(_Settings):
    """Settings of flow `report`.

    Attributes:
        name: name of the report.
        baseline: the run of the dense model: pairs/NAME/PRESET or runs/NAME.
        candidate: the run to compare with the baseline: pairs/NAME/PRESET or runs/NAME.
        config: settings of the report.
    """

    everyday = (
        *("name", "baseline", "candidate"),
        *("config.resamples", "config.seed", "config.confidence"),
    )
    name: Name = "sample"
    baseline: RunName = "pairs/sample/mt5-tiny"
    candidate: RunName = "pairs/sample/mswitch-tiny"
    config: ReportConfig = ReportConfig()  # noqa: RUF009


#: Named sets of default settings, by class of settings. A flow's parameter `defaults` is the name
#: of a set. Deployments store no groups of parameters: if a run set one field of a group, Prefect's
#: server would drop the group's other stored fields.
DEFAULTS: Mapping[type, Mapping[str, Any]] = {
    CorpusSettings: {
        "sample": CorpusSettings(),
        "mc4": CorpusSettings(name="mc4", build=CorpusConfig()),
    },
    ExamplesSettings: {
        "sample": ExamplesSettings(),
        "mt5": ExamplesSettings(
            name="mc4", corpus="mc4", vocabulary=VocabularyConfig(), examples=ExamplesConfig()
        ),
    },
    PairSettings: {
        "sample": PairSettings(),
        "base": PairSettings(
            name="base",
            examples="mc4",
            baseline="mt5-base",
            candidate="mswitch-base",
            training=TrainConfig(),
        ),
    },
}
