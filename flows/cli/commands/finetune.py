"""`mswitch finetune`: train on with the parameters of another run."""

import sys
from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.cli.commands.common import Json, finish
from mswitch.flows.supervision import is_supervised, supervise_in_job
from mswitch.models.config import JobConfig, TuningChanges, TuningConfig
from mswitch.tasks.mixtures import DEFAULT, find_mixture

app = App(name="finetune")


@app.default
def finetune(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    tasks: str,
    out: str,
    step: int | None = None,
    keep_moments: Annotated[bool, Parameter(negative="")] = False,
    mixture: str = DEFAULT,
    config: Annotated[TuningConfig, Parameter(name="*")] = TuningConfig(),  # noqa: B008
    changes: Annotated[TuningChanges, Parameter(name="*")] = TuningChanges(),  # noqa: B008
    job: Annotated[JobConfig, Parameter(name="*")] = JobConfig(),  # noqa: B008
    json: Json = False,
) -> int:
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
        mixture: how often each language comes, as in `mswitch train`.
    """
    chosen = find_mixture(mixture)
    if job.shared and not is_supervised("finetune"):
        return supervise_in_job(sys.argv[1:])
    from mswitch.models.training.finetune import finetune as run_finetuning

    summary = run_finetuning(
        from_, tasks, out, config, chosen, changes, job, step=step, keep_moments=keep_moments
    )
    return finish(summary, json)
