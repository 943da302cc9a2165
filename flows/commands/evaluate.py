"""`mswitch evaluate`: loss per document and language."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.common import Json, finish
from models.config import EvaluateConfig

app = App(name="evaluate", help="Evaluate a run's checkpoints per document and language.")


@app.default
def evaluate(
    *,
    run: Path,
    examples: str,
    config: Annotated[EvaluateConfig, Parameter(name="*")] = EvaluateConfig(),  # noqa: B008
    json: Json = False,
) -> int:
    """Write eval/<step>.parquet for every kept checkpoint: nats, tokens, bytes per document.

    The validation examples are frozen, the same for every model and step, and no token is
    dropped by a router. Steps that are already evaluated are skipped.

    Args:
        run: a run directory.
        examples: the examples directory the run was trained on.
    """
    from models.evaluate import evaluate as run_evaluation

    return finish(run_evaluation(run, examples, config), json)
