"""Choose the kept checkpoint of a run that scores best on validation.

Only this checkpoint is tested.
"""

from pathlib import Path
from typing import Any

from mswitch.models.config import PredictConfig
from mswitch.models.device_errors import explain_memory
from mswitch.models.inference.predict import Predictor
from mswitch.models.training.run_directory import PREDICTIONS, SELECTED
from mswitch.models.training.run_files import open_files
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER
from mswitch.pipelines.progress import say


@explain_memory()
def select(run: str | Path, tasks: str | Path | None, config: PredictConfig) -> dict[str, Any]:
    """Predict validation with every kept checkpoint, and write the best step to selected.json.

    The best has the highest value of the task's first metric with a mean over languages; among
    equal ones, the earliest.

    Returns:
        Summary: stage, out, step, metric, value, values (by step), and the best step's
        `score_predictions`.
    """
    with open_files(run, PREDICTIONS) as files:
        reader = Predictor(files, tasks, config)
        steps = reader.described["eval_steps"]
        if not (reader.run / MARKER).is_file():
            raise UserError(
                f"{run} is still in training: let it end, and then choose its checkpoint"
            )
        with reader.lock():
            scores_by_step = {step: reader.scores("validation", step) for step in steps}
            means = scores_by_step[steps[0]]["mean"]
            metric = next((name for name, mean in means.items() if mean is not None), None)
            if metric is None:
                raise UserError(
                    f"each language of {reader.task['name']} has one true class, so "
                    f"{', '.join(means)} has no mean to choose by: give --step instead of --select"
                )
            values = {step: scores_by_step[step]["mean"][metric] for step in steps}
            best = max(steps, key=lambda step: (values[step], -step))
            chosen = {
                "step": best,
                "metric": metric,
                "value": values[best],
                "values": {str(step): value for step, value in values.items()},
                "tasks": reader.examples.manifest["config_hash"],
                "decode": reader.settings,
            }
            reader.write(SELECTED, chosen)
    say("predict", f"step {best:,} of {len(steps)} has the best {metric}: {values[best]:.2f}")
    return {**scores_by_step[best], **chosen, "out": storage.join(files.place, SELECTED)}
