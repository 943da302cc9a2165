"""`mswitch evidence`: the speed-up that a machine can show in a given time."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter, validators

from mswitch.flows.child_processes import is_supervised, supervise
from mswitch.flows.stages.common import Json, finish, print_result, split_commas
from mswitch.pipelines.progress import say

if TYPE_CHECKING:
    from mswitch.flows.chains.plan import Request

app = App(name="evidence")

AtLeastOne = Parameter(validator=validators.Number(gte=1))
Flag = Parameter(negative="")

#: Prefect's settings for a flow in this process, whose server ends with it.
_PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The flow uses no blocks; looking for kinds of them takes a second.
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    # The command prints errors itself, once and readably.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Its server, stopped at the end, may log the traceback of a cancelled query as an error.
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # The first start migrates a fresh database: Prefect's own 20 s are too tight.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


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
    return run_supervised("evidence", request, out, json, prepare_only)


def run_supervised(
    name: str, request: "Request", out: Path, json: bool, prepare_only: bool = False
) -> int:
    """Run the chain in a child of this command, which leaves nothing behind however it ends."""
    from mswitch.flows.chains.plan import settled
    from mswitch.pipelines.directory_lock import lock_directory

    if not is_supervised(name):
        # The flow settles it again; a refusal need not wait for Prefect.
        if not prepare_only:
            with lock_directory(out):
                print(settled(request, out).summary, file=sys.stderr)
        return supervise(sys.argv[1:])
    os.environ.update({k: v for k, v in _PREFECT_DEFAULTS.items() if k not in os.environ})
    from mswitch.flows.chains.chain import run_chain

    ended = finish(run_chain(name, request, out, prepare_only), json)
    if name == "demo":
        say(
            name,
            "experts gain on text that is all facts: `mswitch evidence --setting names --steps "
            "2400` shows it in 45 minutes",
        )
    return ended
