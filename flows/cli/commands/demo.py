"""`mswitch demo`: the whole chain."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from mswitch.flows.cli.commands.common import Json, finish, prefect_for_one_flow
from mswitch.flows.supervision import is_supervised, supervise

app = App(name="demo")


@app.default
def demo(
    *,
    out: Path = Path("runs/demo"),
    sample: Literal["gflanguages", "debian"] = "gflanguages",
    steps: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    finetune_steps: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    json: Json = False,
) -> int:
    """Sample, corpus, vocabulary, examples, two trainings, two evaluations, fine-tuning, report.

    One Prefect flow on an ephemeral API and SQLite, Beam's local runner and JAX on the CPU:
    nothing to start before, and four to nine minutes on two cores. Run it again and it does
    nothing; kill it and it continues. The report is OUT/report/report.html.

    The report says what so small a pair of models learned of so little text. What experts gain
    takes longer: `mswitch evidence`.

        mswitch demo --sample debian --out runs/debian

    Args:
        out: where everything goes.
        sample: gflanguages (100 languages, kilobytes, no network) or debian (80
            languages, megabytes; needs apt-get).
        steps: training steps of each model, in place of the sample's default.
        finetune_steps: steps of fine-tuning each model to tell the languages apart, in place of
            80 (gflanguages) or none (debian); 0 leaves fine-tuning out.
    """
    from mswitch.flows.demo_config import claim_directory, demo_config
    from mswitch.pipelines.outputs import lock_directory

    config = demo_config(sample, steps, finetune_steps)
    if not is_supervised("demo"):
        # The flow claims it again; a refusal need not wait for Prefect.
        with lock_directory(out):
            claim_directory(config, out)
        argv = ["demo", "--out", str(out), "--sample", sample]
        argv += ["--steps", str(steps)] if steps is not None else []
        if finetune_steps is not None:
            argv += ["--finetune-steps", str(finetune_steps)]
        return supervise([*argv, *(["--json"] if json else [])])
    prefect_for_one_flow()
    from mswitch.flows.prefect_flows.demo import demo as demo_flow

    return finish(demo_flow(config, out), json)
