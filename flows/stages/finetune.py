"""`mswitch finetune`: train further from the parameters of another run."""

from cyclopts import App

from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.config import JobConfig, TuningChanges, TuningConfig
from mswitch.tasks.batches.mixtures import DEFAULT, find_mixture

app = App(name="finetune")


@stage(
    app,
    "finetune",
    makes="finetuned",
    reads={"from_": "runs", "tasks": "examples"},
    accelerator=True,
)
def finetune(
    *,
    from_: str,
    tasks: str,
    out: str,
    step: int | None = None,
    keep_moments: bool = False,
    mixture: str = DEFAULT,
    config: TuningConfig = TuningConfig(),
    changes: TuningChanges = TuningChanges(),
    job: JobConfig = JobConfig(),
) -> Summary:
    """Fine-tune a trained or imported run. The same command continues a killed fine-tuning.

    The defaults are T5's: a constant learning rate of 1e-3, dropout of 0.1 (0.4 within experts),
    128 examples a step, new moments of the optimizer. The output is a run like others, for
    evaluate, export-hf and another finetune; its config.json names the run that it began with.

        mswitch finetune --from run --tasks tasks --out tuned --steps 2000 --eval-every 200

    For several machines and for exit code 75, see `mswitch train --help`.

    Args:
        from_: the run to begin with, made by `train`, `finetune`, `upcycle` or `import-hf`: its
            directory, or its gs:// or s3:// URL.
        tasks: an examples directory with the run's vocabulary, or a TOML file that lists several
            (docs/reference/multitask.md).
        out: the new run directory, or a gs:// or s3:// URL; a run with another configuration there
            is refused.
        step: step of the checkpoint to begin with; by default the last.
        keep_moments: keep the optimizer's moments and its count of steps, as T5X does.
        mixture: sampling rate of each language: a name from `mswitch mixture list`, a seqio task
            such as mc4.de, or a TOML file.
    """
    chosen = find_mixture(mixture)
    from mswitch.models.training.finetune import finetune as run_finetuning

    return run_finetuning(
        from_, tasks, out, config, chosen, changes, job, step=step, keep_moments=keep_moments
    )
