"""`mswitch mixture`: show the sampling rate of each language."""

import dataclasses
from typing import Annotated

from annotated_types import Ge
from cyclopts import App

from mswitch.flows.stages.common import Json, print_result
from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.mixtures import DEFAULT, find_mixture, mixtures

app = App(
    name="mixture",
    help="Show the sampling rate of each language, and how often its text is repeated.",
)


@app.command
def show(
    examples: str | None = None,
    *,
    tasks: str | None = None,
    mixture: str = DEFAULT,
    steps: Annotated[int, Ge(1)] = 1_000_000,
    batch_size: Annotated[int, Ge(1)] = 1024,
    json: Json = False,
) -> int:
    """Print rate, records, tokens and epochs of each language, before anything is trained.

    A language whose text would be read more than 4 times is marked, with a warning: beyond that,
    repeated text helps less and less (Muennighoff et al. 2023).

        mswitch mixture show examples --mixture mc4.unimax.4 --steps 100000

    To define a mixture, write a file such as slavic.toml:

        families = ["Slavic"]  # or languages, scripts, tiers
        alpha = 0.3            # or temperature; [weights]: explicit
        max_epochs = 4         # with alpha = 0, this is UniMax

    To show several tasks, as for `mswitch finetune --tasks multitask.toml`:

        mswitch mixture show --tasks multitask.toml --steps 10000 --batch-size 128

    Args:
        examples: an examples directory.
        tasks: a TOML file of several tasks, in place of --examples.
        mixture: a name from `mswitch mixture list`, a seqio task such as mc4.de, or a TOML file.
        steps: training steps; the default is mT5's.
        batch_size: examples per step (a packed row holds several); the default is mT5's.
    """
    from mswitch.tasks.batches.mixture_table import describe_mixture, format_mixture
    from mswitch.tasks.batches.multitask import open_task_mixture

    given = tasks or examples
    if given is None or (tasks and examples):
        raise UserError("give an examples directory, or --tasks with a TOML file of several tasks")
    opened = open_task_mixture(given, find_mixture(mixture))
    table = describe_mixture(opened, steps, batch_size)
    summary = {
        "stage": "mixture",
        "examples": given,
        "mixture": tasks or mixture,
        "definition": opened.definition,
        "steps": steps,
        "batch_size": batch_size,
        **table,
    }
    head = f"mixture {tasks or mixture}: {steps:,} steps of {batch_size:,} sequences"
    return print_result(summary, f"{head}\n{format_mixture(table)}", json)


@app.command(name="list")
def list_mixtures(*, json: Json = False) -> int:
    """Print the named mixtures, and the number of languages that each mixture may have.

        mswitch mixture list

    After `import mswitch.tasks.seqio.pretrain`, seqio has mixtures of the same names.
    """
    rows = [
        {
            "name": name,
            "languages": len(mixture.members()),
            "definition": dataclasses.asdict(mixture),
        }
        for name, mixture in mixtures().items()
    ]
    lines = [
        f"{row['name']:32} {row['languages']:3} language{'s' if row['languages'] > 1 else ''}"
        for row in rows
    ]
    return print_result({"stage": "mixture", "mixtures": rows}, "\n".join(lines), json)
