"""`mswitch train`: pretrain a preset, alone or as one of the processes of a job."""

import sys
from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.cli.commands.common import Json, finish
from mswitch.flows.supervision import is_supervised, supervise_in_job
from mswitch.models.config import JobConfig, ModelChanges, TrainConfig
from mswitch.tasks.mixtures import DEFAULT, find_mixture

app = App(name="train")


@app.default
def train(
    *,
    preset: str,
    examples: str,
    out: str,
    mixture: str = DEFAULT,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008
    changes: Annotated[ModelChanges, Parameter(name="*")] = ModelChanges(),  # noqa: B008
    job: Annotated[JobConfig, Parameter(name="*")] = JobConfig(),  # noqa: B008
    json: Json = False,
) -> int:
    """Pretrain one model. The same command continues a run that was killed or preempted.

    Exit code 75 means: stopped on SIGTERM after saving, or another process of the job was lost;
    give the same command again.

        mswitch train --preset mswitch-tiny --examples examples --out run --steps 400

    On several machines, the same command on each, with --distributed, or with
    --coordinator-address HOST:PORT --num-processes N --process-id I.

    Args:
        preset: a model; an unknown name lists them all.
        examples: an examples directory, or a TOML file of several
            (docs/reference/multitask.md).
        out: the run directory, or a gs:// or s3:// URL; a run with another configuration there is
            refused.
        mixture: how often each language comes: a name that `mswitch mixture list` shows, a seqio
            task such as mc4.de, or a TOML file. The default takes every language of the examples,
            in proportion to records ** 0.3.
    """
    chosen = find_mixture(mixture)
    if job.shared and not is_supervised("train"):
        return supervise_in_job(sys.argv[1:])
    from mswitch.models.training.train import train as run_training

    return finish(run_training(preset, examples, out, config, chosen, changes, job), json)
