"""`mswitch upcycle`: make a sparse run from a dense one."""

from cyclopts import App

from mswitch.flows.stages.stage import Summary, stage
from mswitch.models.transfer.config import UpcycleConfig
from mswitch.pipelines.config_checks import Count

app = App(name="upcycle")


@stage(
    app,
    "upcycle",
    makes="runs",
    reads={"from_": "runs", "examples": "examples"},
    accelerator=True,
)
def upcycle(
    *,
    from_: str,
    examples: str,
    out: str,
    step: Count | None = None,
    config: UpcycleConfig = UpcycleConfig(),
) -> Summary:
    r"""Make a Switch Transformer from a trained dense model, to train it further.

    Experts are copies of the dense layers. Each sparse layer's output is scaled by one over its
    mean gate on the given examples, so that the loss does not jump; a jump of more than 0.05 nats
    is refused. The output is a run of step 0, like that of import-hf.

        mswitch upcycle --from dense --experts 8 --examples examples --out sparse
        mswitch finetune --from sparse --tasks examples --out run --schedule rsqrt \
            --base-learning-rate 1

    Args:
        from_: the dense run directory, or its gs:// or s3:// URL.
        examples: examples in the run's vocabulary, to measure gates and losses on.
        out: the new run directory, or a gs:// or s3:// URL.
        step: step of the dense run's checkpoint; by default the newest.
    """
    from mswitch.models.transfer.upcycle import upcycle as run_upcycle

    return run_upcycle(from_, examples, out, config, step)
