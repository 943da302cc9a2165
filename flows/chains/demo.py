"""`mswitch demo`: run the whole chain on a small sample."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from cyclopts import App

from mswitch.flows.stages.common import Json, finish
from mswitch.pipelines.progress import say

app = App(name="demo")


@app.default
def demo(
    *,
    out: Path = Path("runs/demo"),
    sample: Literal["gflanguages", "debian"] = "gflanguages",
    steps: Annotated[int, Ge(1)] | None = None,
    finetune_steps: Annotated[int, Ge(0)] | None = None,
    json: Json = False,
) -> int:
    """Run the whole chain, from a small sample to a report that compares two small models.

    The stages are sample, corpus, vocabulary, examples, two trainings, two evaluations,
    fine-tuning and report. They take four to nine minutes on two cores, and need no server. A
    killed command continues when it is repeated; a finished one does nothing. The report is
    OUT/report/report.html.

    These models and this text are too small to show what experts gain: see `mswitch evidence`.

        mswitch demo --sample debian --out runs/debian

    Args:
        out: the directory of all outputs.
        sample: gflanguages (100 languages, kilobytes, no network) or debian (80
            languages, megabytes; needs apt-get).
        steps: training steps of each model; the default depends on the sample.
        finetune_steps: steps of fine-tuning each model to tell languages apart; by default 80
            (gflanguages) or 0 (debian), which leaves fine-tuning out.
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
        "shows this in 45 minutes",
    )
    return code
