"""The flow that fine-tunes a run on a task, and shows what it is worth there."""

from prefect import State, flow
from prefect.states import Completed

from flows.operators.parameters import flat
from flows.operators.profile import read_operators
from flows.operators.settings import FinetuneSettings
from flows.operators.steps import cancel_hook
from flows.operators.tuning import finetune, predict, show_scores
from pipelines.errors import UserError
from pipelines.outputs import read_manifest


@flow(
    name="finetune", flow_run_name="finetune {name}: {run} of {pair}", on_cancellation=[cancel_hook]
)
@flat
def finetune_run(settings: FinetuneSettings) -> State:
    """Fine-tune a run on a task, choose its checkpoint on validation, and read test from it."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    origin = operators.directory("pairs", settings.pair) / settings.run
    tasks = operators.directory("examples", settings.tasks)
    out = operators.directory("finetuned", settings.name)
    manifest = read_manifest(tasks, "examples")
    if manifest.get("kind") != "supervised":
        raise UserError(
            f"{tasks} are not examples of a task: name some that `mswitch examples supervised` made"
        )
    splits = {split for of in manifest["languages"].values() for split in of}
    if "validation" not in splits:
        raise UserError(f"{tasks} has no validation examples: a checkpoint is chosen on them")
    finetune(settings, origin, tasks, out, launcher)
    predict(out, settings.predict, launcher, ["--select"])
    split = "test" if "test" in splits else "validation"
    if split == "test":
        predict(out, settings.predict, launcher, ["--split=test"])
    return Completed(message=show_scores(out, split))
