"""`mswitch demo`: the whole chain."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from mswitch.flows.stages.common import Json, finish
from mswitch.pipelines.progress import say

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

    Nothing to start before, and four to nine minutes on two cores. Run it again and it does
    nothing; kill it and it continues. The report is OUT/report/report.html.

    The report says what so small a pair of models learned of so little text. What experts gain
    takes longer: `mswitch evidence`.

        mswitch demo --sample debian --out runs/debian

    Args:
        out: the directory of all outputs.
        sample: gflanguages (100 languages, kilobytes, no network) or debian (80
            languages, megabytes; needs apt-get).
        steps: training steps of each model, in place of the sample's default.
        finetune_steps: steps of fine-tuning each model to tell the languages apart, in place of
            80 (gflanguages) or none (debian); 0 leaves fine-tuning out.
    """
    from mswitch.flows.chains.chain import run_chain
    from mswitch.flows.chains.plan import Request

    request = Request(
        sample=sample,
        setting="demo" if sample == "gflanguages" else "demo-debian",
        steps=steps,
        seeds=1,
        finetune_steps=finetune_steps,
    )
    code = finish(run_chain("demo", request, out), json)
    say(
        "demo",
        "experts gain on text that is all facts: `mswitch evidence --setting names --steps 2400` "
        "shows it in 45 minutes",
    )
    return code
