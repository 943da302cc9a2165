"""`mswitch finetune`: train on with the parameters of another run."""

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
    """Fine-tune a run, trained or imported. The same command continues one that was killed.

    The recipe is T5's: a constant rate of 1e-3, dropout of 0.1 (0.4 within experts), 128 examples
    a step, fresh moments. What comes out is a run like any other, for evaluate, export-hf and
    another finetune; its config.json says where it began.

        mswitch finetune --from run --tasks tasks --out tuned --steps 2000 --eval-every 200

    On several machines, and on exit code 75, as `mswitch train`.

    Args:
        from_: the run to begin with: what `train`, `finetune`, `upcycle` or `import-hf` made, or
            its gs:// or s3:// URL.
        tasks: an examples directory with the run's vocabulary, or a TOML file of several
            (docs/reference/multitask.md).
        out: the new run directory, or a gs:// or s3:// URL; a run with another configuration there
            is refused.
        step: the checkpoint to begin with; by default the last.
        keep_moments: keep the optimizer's moments and its count of steps, as T5X does.
        mixture: how often each language comes: a name that `mswitch mixture list` shows, a seqio
            task such as mc4.de, or a TOML file.
    """
    chosen = find_mixture(mixture)
    from mswitch.models.training.finetune import finetune as run_finetuning

    return run_finetuning(
        from_, tasks, out, config, chosen, changes, job, step=step, keep_moments=keep_moments
    )
