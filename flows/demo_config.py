"""Settings of the demo; those of the evidence and of operators begin with them."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from mswitch.models.config import TuningConfig
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig
from mswitch.pipelines.supervised.build import SupervisedConfig
from mswitch.pipelines.vocabulary.train import VocabularyConfig

#: Names the demo that a directory holds.
DEMO_FILE = "demo.json"

SampleName = Literal["gflanguages", "debian"]
#: A minute for both models on two cores; the only checkpoint is the last one. T5's rate of 1e-3
#: moves so young a model too little.
FINETUNE = TuningConfig(steps=80, batch_size=32, base_learning_rate=0.04, dtype="float32")


class TrainSettings(BaseModel):
    """Settings that the baseline and the candidate share, so that only the model differs.

    Attributes:
        steps: training steps of each model.
        batch_size: sequences a step.
        seed: of initialisation, data order and masks.
        base_learning_rate: factor on T5's 1/sqrt(max(step, warmup_steps)).
        warmup_steps: steps at constant rate (T5: 10,000; a run of hundreds needs fewer).
        evaluations: log-spaced evaluation steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    batch_size: PositiveInt = 32
    seed: int = 0
    base_learning_rate: PositiveFloat = 1.0
    warmup_steps: PositiveInt
    evaluations: PositiveInt = 16

    def as_options(self) -> list[str]:
        """The settings as options of `mswitch train`."""
        options = []
        for name, value in self.model_dump().items():
            options += [f"--{name.replace('_', '-')}", str(value)]
        return options


class DemoConfig(BaseModel):
    """Every setting of one `mswitch demo`.

    Attributes:
        sample: which real text to fetch.
        corpus, vocabulary, examples: the stages' own configurations.
        train: shared by both models.
        baseline: preset of the dense model.
        candidate: preset of the sparse model, FLOP-matched to it.
        finetune: shared by both models on the task `language_of`; None leaves it out.
        tasks: of that task's examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: SampleName
    corpus: CorpusConfig
    vocabulary: VocabularyConfig
    examples: ExamplesConfig
    train: TrainSettings
    baseline: str = "mt5-tiny"
    candidate: str = "mswitch-tiny"
    finetune: TuningConfig | None = None
    tasks: SupervisedConfig = SupervisedConfig(inputs_length=64, targets_length=8)


def demo_config(
    sample: SampleName, steps: int | None = None, finetune_steps: int | None = None
) -> DemoConfig:
    """The demo's settings for a sample; where they differ from mC4's, the comment says why.

    Args:
        sample: which real text.
        steps: training steps, in place of the default.
        finetune_steps: steps of fine-tuning, in place of the default; 0 leaves it out.
    """
    if finetune_steps is None:
        finetune_steps = FINETUNE.steps if sample == "gflanguages" else 0
    finetune = dataclasses.replace(FINETUNE, steps=finetune_steps) if finetune_steps else None
    if sample == "gflanguages":
        return DemoConfig(
            sample=sample,
            corpus=CorpusConfig(
                # A page is a few sentences: mC4's rule (3 lines, the third longest of 200
                # characters) would drop nearly all, and every Chinese, Japanese and Korean one.
                min_lines=1,
                min_long_line_characters=1,
                # mC4 3.0.1's threshold; 3.1.0's 0.95 is for whole web pages.
                language_threshold=0.7,
                language_min_bytes=0,
                # One page in five, and so many that a language has an interval.
                validation_per_mille=200,
                min_validation_documents=5,
            ),
            vocabulary=VocabularyConfig(size=4096, character_coverage=0.9995),
            examples=ExamplesConfig(inputs_length=64),
            train=TrainSettings(steps=400 if steps is None else steps, warmup_steps=100),
            finetune=finetune,
        )
    return DemoConfig(
        sample=sample,
        corpus=CorpusConfig(
            # Manuals have shorter paragraphs than the web pages mC4's 200 characters are for.
            min_lines=3,
            min_long_line_characters=40,
            language_threshold=0.7,
            # Enough documents for an interval, few enough to evaluate 32 times on two cores.
            validation_per_mille=10,
            min_validation_documents=8,
        ),
        vocabulary=VocabularyConfig(size=8192, sample_characters=8_000_000),
        examples=ExamplesConfig(inputs_length=128, validation_segments=2),
        train=TrainSettings(steps=600 if steps is None else steps, warmup_steps=100),
        finetune=finetune,
    )


def claim_directory(config: DemoConfig, out: Path) -> None:
    """Make `out`, which the caller has locked, the directory of this demo."""
    settings = config.model_dump(mode="json")
    path = out / DEMO_FILE
    if path.is_file():
        if json.loads(path.read_text()) != settings:
            raise UserError(
                f"{out} holds a demo with other settings ({path}): "
                "choose another --out, or remove it to start again"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something that is not a demo: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    storage.write_json(path, settings)
