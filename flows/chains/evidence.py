"""`mswitch evidence`: the speed-up that a machine can show in a given time."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from mswitch.flows.stages.common import Json, finish, print_result, split_commas

app = App(name="evidence")

AtLeastOne = Parameter(validator=validators.Number(gte=1))
Flag = Parameter(negative="")


@app.default
def evidence(
    *,
    out: Path = Path("runs/evidence"),
    budget: str | None = None,
    sample: Literal["debian", "documentation", "gflanguages"] | None = None,
    corpus: str = "",
    examples: str = "",
    setting: str = "",
    seeds: Annotated[int, AtLeastOne] = 3,
    models: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    steps: Annotated[int | None, AtLeastOne] = None,
    dry_run: Annotated[bool, Flag] = False,
    prepare_only: Annotated[bool, Flag] = False,
    json: Json = False,
) -> int:
    """Train a sparse model and its dense twin over seeds, as long as a budget says, and compare.

    Text, vocabulary, examples, trainings, evaluations, and one report in OUT/report: the step
    speed-up by language and by horizon, with intervals over seeds and documents. Which models, and
    with which settings, follows from the device that JAX finds: a CPU, a GPU by its memory, or a
    slice. `--dry-run` says what would be done, for how long, and where its settings were measured.

        mswitch evidence --dry-run
        mswitch evidence --budget 3h

    On text that is all knowledge, names of things in 30 languages, experts gain soon:

        mswitch evidence --setting names --steps 2400 --out runs/names

    On prose the usual router gains late, after some thousand steps, and experts that a hash of the
    token chooses sooner. More steps extend the runs that are there:

        mswitch evidence --setting prose --models dense,hash-32 --steps 10000 --out runs/prose

    Kill it at any moment and give the same command again: it continues, and on a CPU the report is
    the same to the byte. It has no wall-clock speed-up, which would differ.

    A machine without network needs examples from one that has it:

        mswitch evidence --prepare-only --setting gpu --out gpu        # there
        mswitch evidence --examples gpu/examples --setting gpu         # here

    Args:
        out: the directory of all outputs.
        budget: time for all trainings and evaluations, such as 90m, 3h (the default) or 2d. Text
            and examples are not in it.
        sample: text that is fetched: debian (60 MB in 102 languages, the default; needs apt-get),
            documentation (prose alone, the default of prose; needs apt-get and mandoc) or
            gflanguages (100 languages, kilobytes, no network).
        corpus: a finished corpus directory in place of a sample, or its URL.
        examples: a finished examples directory in place of text, or its URL.
        setting: cpu, gpu, large-gpu or slice, in place of the one for this machine; or, for a
            CPU, names, which fetches names of things in place of text (25 MB; needs apt-get), and
            prose or messages, which also train two dense controls and experts with other routers.
        seeds: how often each model is trained, each time with another seed.
        models: which of the setting's models are trained, by default all: --dry-run names them.
            Models and seeds may be added later.
        steps: steps of each training, in place of what the budget holds. More steps than before
            extend the trainings.
        dry_run: print the plan, and do nothing.
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
        raise UserError(f"--prepare-only makes examples alone: leave out {unused[0]}")
    if setting and find_setting(setting).names and (sample or corpus):
        raise UserError(
            f"--setting {setting} fetches names of things, not text: leave out "
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
