"""`mswitch train`: pretrain a preset."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.common import Json, finish
from models.config import ModelChanges, TrainConfig
from tasks.mixtures import DEFAULT, find_mixture

app = App(name="train", help="Pretrain a preset on an examples directory.")


@app.default
def train(
    *,
    preset: str,
    examples: str,
    out: Path,
    mixture: str = DEFAULT,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008
    changes: Annotated[ModelChanges, Parameter(name="*")] = ModelChanges(),  # noqa: B008
    json: Json = False,
) -> int:
    """Pretrain one model. The same command continues a run that was killed or preempted.

    Exit code 75 means: stopped on SIGTERM after saving, give the same command again.

        mswitch train --preset mswitch-tiny --examples examples --out run --steps 400

    Args:
        preset: a model; an unknown name lists them all.
        examples: an examples directory.
        out: the run directory; a run with another configuration there is refused.
        mixture: how often each language comes: a name that `mswitch mixture list` shows, a seqio
            task such as mc4.de, or a TOML file. The default takes every language of the examples,
            in proportion to records ** 0.3.
    """
    chosen = find_mixture(mixture)
    from models.train import train as run_training

    return finish(run_training(preset, examples, out, config, chosen, changes), json)
