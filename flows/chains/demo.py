"""`mswitch demo`: run the whole chain on a small sample."""

import json as json_format
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from cyclopts import App

from mswitch.flows.stages.common import Json, finish
from mswitch.pipelines.progress import say

app = App(name="demo")

Sample = Literal["translations", "debian", "gflanguages"]
SETTINGS: dict[str, str] = {
    "translations": "translations",
    "debian": "demo-debian",
    "gflanguages": "demo",
}


@app.default
def demo(
    *,
    out: Path = Path("runs/demo"),
    sample: Sample | None = None,
    steps: Annotated[int, Ge(1)] | None = None,
    seeds: Annotated[int, Ge(1)] = 1,
    finetune_steps: Annotated[int, Ge(0)] | None = None,
    json: Json = False,
) -> int:
    """Run the whole chain, from text to a report that compares a sparse model and its dense twin.

    The stages are sample, corpus, vocabulary, examples, two trainings side by side, two
    evaluations and report. They take five to seven minutes on two cores, and need no server. A
    killed command continues when it is repeated; a finished one does nothing. The report is
    OUT/report/report.html.

        mswitch demo
        mswitch demo --seeds 3      # adds two seeds, for an interval that covers seeds

    Without a network, the demo runs on excerpts of one declaration. These are too small to show a
    gain.

    Args:
        out: the directory of all outputs.
        sample: translations (messages of programs in 101 languages, 140 MB of Python packages; the
            default), debian (documentation in 80 languages; needs apt-get) or gflanguages
            (excerpts in 100 languages, kilobytes, no network).
        steps: training steps of each model; the default depends on the sample.
        seeds: number of trainings of each model. Seeds may be added later.
        finetune_steps: steps of fine-tuning each model to tell languages apart; by default 80
            (gflanguages) or 0, which leaves fine-tuning out.
    """
    from mswitch.flows.chains.chain import run_chain
    from mswitch.flows.chains.plan import Request

    chosen = sample or choose_sample(out)
    request = Request(
        sample=chosen,
        setting=SETTINGS[chosen],
        steps=steps,
        seeds=seeds,
        finetune_steps=finetune_steps,
    )
    summary = run_chain("demo", request, out)
    code = finish(summary, json)
    for line in list_next(chosen, seeds, summary):
        say("demo", line)
    say("demo", f"open {out / 'report' / 'report.html'}")
    return code


def choose_sample(out: Path) -> Sample:
    """Return the sample of an earlier demo in `out`, or translations if they can be downloaded."""
    from mswitch.flows.chains.plan import FILE
    from mswitch.flows.stages import sample
    from mswitch.pipelines.samples.translations import UnreachableError

    plan = out / FILE
    if plan.is_file():
        return json_format.loads(plan.read_text())["asked"]["sample"]
    try:
        sample.translations.run(out=out / "sample")
    except UnreachableError as error:
        say("demo", str(error))
        say(
            "demo",
            "instead, the demo uses excerpts of one declaration in 100 languages: these show that "
            "every step works, but are too small to show a gain",
        )
        return "gflanguages"
    return "translations"


def list_next(sample: str, seeds: int, summary: dict[str, Any]) -> list[str]:
    """Return what the report does not show, with the commands that show it."""
    if sample != "translations":
        return ["this text is too small for a gain: `mswitch demo --out runs/gain` shows one"]
    lines = []
    if seeds < 3:
        trained = sum(
            secs
            for title, secs in summary["stage_secs"].items()
            if title.startswith(("train", "evaluate"))
        )
        time = (
            f" take {(3 - seeds) * trained / 60 / seeds + 0.5:.0f} minutes more" if trained else ""
        )
        lines.append(
            f"{seeds} seed{'s' * (seeds > 1)}; three seeds{time}: `mswitch demo --seeds 3`"
        )
    lines.append("from here to 3.5x: docs/how-to/from-five-minutes-to-3.5x.md")
    return lines
