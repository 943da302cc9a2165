"""`mswitch train`: pretrain a preset, in one process or several."""

from cyclopts import App

from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.config import JobConfig, ModelChanges, TrainConfig
from mswitch.tasks.batches.mixtures import DEFAULT, find_mixture

app = App(name="train")


@stage(app, "train", makes="runs", reads={"examples": "examples"}, accelerator=True)
def train(
    *,
    preset: str,
    examples: str,
    out: str,
    mixture: str = DEFAULT,
    config: TrainConfig = TrainConfig(),
    changes: ModelChanges = ModelChanges(),
    job: JobConfig = JobConfig(),
) -> Summary:
    """Pretrain a model. The same command continues a killed or preempted training.

    Exit code 75 means that the training saved and stopped on SIGTERM, or that another process of it
    was lost: give the same command again.

        mswitch train --preset mswitch-tiny --examples examples --out run --steps 400

    On several machines, give the same command on each, with --distributed, or with
    --coordinator-address HOST:PORT --num-processes N --process-id I.

    Args:
        preset: name of a model, such as mswitch-base (router of the paper), mswitch-base-token
            (router that knows the token) or mt5-base (dense); an unknown name lists all.
        examples: an examples directory, or a TOML file that lists several
            (docs/reference/multitask.md).
        out: the run directory, or a gs:// or s3:// URL; a run with another configuration there is
            refused.
        mixture: sampling rate of each language: a name from `mswitch mixture list`, a seqio task
            such as mc4.de, or a TOML file. The default takes every language of the examples, in
            proportion to records ** 0.3.
    """
    chosen = find_mixture(mixture)
    from mswitch.models.training.train import train as run_training

    return run_training(preset, examples, out, config, chosen, changes, job)
