"""`mswitch distill`: train a dense student of a sparse run."""

from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.config import JobConfig, ModelChanges, TrainConfig
from mswitch.models.transfer.config import DistillConfig
from mswitch.pipelines.config_checks import Count
from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.mixtures import DEFAULT, find_mixture

app = App(name="distill")


@stage(
    app,
    "distill",
    makes="runs",
    reads={"teacher": "runs", "examples": "examples"},
    accelerator=True,
)
def distill(
    *,
    teacher: str,
    preset: str | None = None,
    from_: str | None = None,
    examples: Annotated[str, Parameter(name=("--examples", "--tasks"))],
    out: str,
    step: Count | None = None,
    mixture: str = DEFAULT,
    distillation: DistillConfig = DistillConfig(),
    training: TrainConfig = TrainConfig(),
    changes: ModelChanges = ModelChanges(),
    job: JobConfig = JobConfig(),
) -> Summary:
    r"""Distill a sparse run into a dense model. The same command continues a killed distillation.

    The student begins with the teacher's parameters except the experts. By default its loss is 0.75
    of the loss on the text and 0.25 of the loss against the teacher's predictions (Switch
    Transformers, section 4.2). It is a run like others. `mswitch report distillation` says how much
    of the teacher's gain it kept.

        mswitch distill --teacher sparse --preset mt5-base --examples examples --out student

    With `--from` the student is an existing dense run, as in `mswitch finetune`:

        mswitch distill --teacher tuned-sparse --from student --tasks tasks --out tuned \
            --schedule constant --base-learning-rate 1e-3 --batch-size 128 --steps 2000

    For several machines and for exit code 75, see `mswitch train --help`.

    Args:
        teacher: the sparse run directory, or its gs:// or s3:// URL.
        preset: the student's preset, a dense model; an unknown name lists all presets.
        from_: in place of a preset, a dense run whose parameters the student begins with, or its
            gs:// or s3:// URL. The default of dropout is then 0.1.
        examples: an examples directory with the teacher's vocabulary, or a TOML file that lists
            several (docs/reference/multitask.md).
        out: the new run directory, or a gs:// or s3:// URL; a run with another configuration there
            is refused.
        step: step of the teacher's checkpoint; by default the last.
        mixture: sampling rate of each language: a name from `mswitch mixture list`, a seqio task
            such as mc4.de, or a TOML file.
    """
    if (preset is None) == (from_ is None):
        raise UserError("give the student as --preset, or as --from RUN")
    chosen = find_mixture(mixture)
    from mswitch.models.transfer.distill import distill as run_distillation

    return run_distillation(
        teacher,
        preset,
        examples,
        out,
        training,
        distillation,
        chosen,
        changes,
        job,
        step=step,
        origin=from_,
    )
