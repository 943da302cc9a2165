"""`mswitch evidence`: train models for a given time, and measure their speed-up."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from cyclopts import App, Parameter

from mswitch.flows.stages.common import Json, finish, print_result, split_commas

app = App(name="evidence")

AtLeastOne = Annotated[int, Ge(1)]
Flag = Parameter(negative="")


@app.default
def evidence(
    *,
    out: Path = Path("runs/evidence"),
    budget: str | None = None,
    sample: Literal["debian", "documentation", "translations", "gflanguages"] | None = None,
    corpus: str = "",
    examples: str = "",
    setting: str = "",
    seeds: AtLeastOne = 3,
    models: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    steps: AtLeastOne | None = None,
    dry_run: Annotated[bool, Flag] = False,
    prepare_only: Annotated[bool, Flag] = False,
    json: Json = False,
) -> int:
    """Train a sparse model and its dense twin with several seeds in a given time, and compare.

    The command makes text, vocabulary, examples, trainings and evaluations, and a report in
    OUT/report. The report shows the step speed-up by language and after fewer steps, with intervals
    over seeds and documents. Models and their settings depend on the device that JAX finds: a CPU,
    a GPU by its memory, or a TPU slice. `--dry-run` prints the plan, its time, and where its
    settings were measured.

        mswitch evidence --dry-run
        mswitch evidence --budget 3h

    On names of things in 30 languages, which are all knowledge, experts gain early:

        mswitch evidence --setting names --steps 2400 --out runs/names

    On prose, experts gain early if a router that knows the token or a hash of the token chooses
    them, and late with the usual router. More steps extend existing runs:

        mswitch evidence --setting prose --models dense,token-32 --steps 10000 --out runs/prose

    If the command is killed, the same command continues, and on a CPU the report has the same
    bytes. It has no wall-clock speed-up, which would differ.

    For a machine without network, make the examples on another machine:

        mswitch evidence --prepare-only --setting gpu --out gpu        # there
        mswitch evidence --examples gpu/examples --setting gpu         # here

    Args:
        out: the directory of all outputs.
        budget: time for all trainings and evaluations, such as 90m, 3h (the default) or 2d. It
            does not include text and examples.
        sample: text to download: debian (60 MB in 102 languages, the default; needs apt-get),
            documentation (only prose, the default of setting prose; needs apt-get and mandoc),
            translations (messages of programs in 101 languages, 140 MB; needs pip) or gflanguages
            (100 languages, kilobytes, no network).
        corpus: a finished corpus directory in place of a sample, or its URL.
        examples: a finished examples directory in place of text, or its URL.
        setting: models, text and training settings. cpu, gpu, large-gpu and slice are for such
            machines; the default is the largest that fits. For a CPU there are also names (names
            of things in place of text, 25 MB; needs apt-get), and prose and messages, which add
            two dense controls and other routers.
        seeds: number of trainings of each model, each with another seed.
        models: models of the setting to train, by default all; --dry-run names them. Models and
            seeds may be added later.
        steps: steps of each training, in place of a budget. More steps than before extend the
            trainings.
        dry_run: print the plan, and do nothing else.
        prepare_only: make the examples, and train nothing.
    """
    from mswitch.flows.chains.machine_settings import find_setting
    from mswitch.flows.chains.plan import Request, make_plan
    from mswitch.pipelines.errors import UserError

    texts = {"--sample": sample, "--corpus": corpus, "--examples": examples}
    lengths = {"--budget": budget, "--steps": steps}
    modes = {"--dry-run": dry_run, "--prepare-only": prepare_only}
    for options in (texts, lengths, modes):
        if len(given := [name for name, value in options.items() if value]) > 1:
            raise UserError(f"{' and '.join(given)}: give one of them")
    unused = {"--examples": examples, "--models": models, **lengths}
    unused = [name for name, value in unused.items() if value]
    if prepare_only and unused:
        raise UserError(f"--prepare-only only makes examples: leave out {unused[0]}")
    if setting and find_setting(setting).names and (sample or corpus):
        raise UserError(
            f"--setting {setting} downloads names of things, not text: leave out "
            f"{'--sample' if sample else '--corpus'}"
        )
    request = Request(
        sample or find_setting(setting or "cpu").sample,
        corpus,
        examples,
        setting,
        budget or "3h",
        steps,
        seeds,
        split_commas(models) or (),
    )
    if dry_run:
        plan = make_plan(request)
        return print_result({"stage": "evidence", **dataclasses.asdict(plan)}, plan.summary, json)
    from mswitch.flows.chains.chain import run_chain

    return finish(run_chain("evidence", request, out, prepare_only), json)
