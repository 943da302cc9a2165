"""`mswitch evaluate`: measure a run's loss per document and language."""

from cyclopts import App

from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.config import EvaluateConfig, JobConfig

app = App(name="evaluate")


@stage(
    app,
    "evaluate",
    reads={"run": "runs", "examples": "examples"},
    output="run",
    part="eval",
    accelerator=True,
)
def evaluate(
    *,
    run: str,
    examples: str,
    config: EvaluateConfig = EvaluateConfig(),
    job: JobConfig = JobConfig(),
    watch: bool = False,
) -> Summary:
    """Write eval/STEP.parquet for every kept checkpoint: each document's nats, tokens and bytes.

    The validation examples are the same for every model and step, and routers drop no token. Steps
    that are already evaluated are skipped. The mesh is that of the training, or one device if there
    are fewer.

        mswitch evaluate --run run --examples examples

    With --watch it evaluates a run while it trains: each checkpoint as it is saved, up to the
    last. A stopped training may be continued meanwhile.

    On several machines, give the same command on each, with --distributed, or with
    --coordinator-address HOST:PORT --num-processes N --process-id I. Exit code 75 means that a
    process was lost, or got SIGTERM: give the same commands again.

    Args:
        run: a run directory, or its gs:// or s3:// URL.
        examples: the examples directory the run was trained on.
        watch: also wait for checkpoints that the training has not saved yet.
    """
    from mswitch.models.evaluation.evaluate import evaluate as run_evaluation

    return run_evaluation(run, examples, config, job, watch=watch)
