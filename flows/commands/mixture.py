"""`mswitch mixture`: how often each language is trained on."""

import dataclasses
import json as json_module

from cyclopts import App

from flows.commands.common import Json
from pipelines.errors import UserError
from tasks.mixtures import DEFAULT, find_mixture, mixtures

app = App(name="mixture", help="Show how often each language is trained on, and how repeated.")


@app.command
def show(
    examples: str,
    *,
    mixture: str = DEFAULT,
    steps: int = 1_000_000,
    batch_size: int = 1024,
    json: Json = False,
) -> int:
    """Print rate, records, tokens and epochs per language, before anything is trained.

    A language that would be repeated more than 4 times is marked, with a warning: beyond that,
    repeated text helps less and less (Muennighoff et al. 2023).

        mswitch mixture show examples --mixture mc4.unimax.4 --steps 100000

    A file such as slavic.toml makes a mixture of your own:

        families = ["Slavic"]  # or languages, scripts, tiers
        alpha = 0.3            # or temperature; [weights]: explicit
        max_epochs = 4         # with alpha = 0, this is UniMax

    Args:
        examples: an examples directory.
        mixture: a name that `mswitch mixture list` shows, a seqio task such as mc4.de, or a TOML
            file.
        steps: training steps; the default is mT5's.
        batch_size: sequences a step; the default is mT5's.
    """
    from tasks.mixture_table import describe_mixture, format_mixture

    for option, value in (("--steps", steps), ("--batch-size", batch_size)):
        if value < 1:
            raise UserError(f"{option} is {value}: give at least 1")
    found = find_mixture(mixture)
    table = describe_mixture(examples, found, steps, batch_size)
    if not json:
        print(f"mixture {mixture}: {steps:,} steps of {batch_size:,} sequences")
        print(format_mixture(table))
        return 0
    summary = {
        "stage": "mixture",
        "examples": str(examples),
        "mixture": mixture,
        "definition": dataclasses.asdict(found),
        "steps": steps,
        "batch_size": batch_size,
        **table,
    }
    print(json_module.dumps(summary, ensure_ascii=False, sort_keys=True))
    return 0


@app.command(name="list")
def list_mixtures(*, json: Json = False) -> int:
    """Print the mixtures with a name, and how many languages each may have.

    The same names are seqio's after `import tasks.pretrain`.
    """
    sizes = {name: len(mixture.members()) for name, mixture in mixtures().items()}
    if json:
        rows = [
            {"name": name, "languages": sizes[name], "definition": dataclasses.asdict(mixture)}
            for name, mixture in mixtures().items()
        ]
        print(json_module.dumps({"stage": "mixture", "mixtures": rows}, ensure_ascii=False))
        return 0
    for name, size in sizes.items():
        print(f"{name:32} {size:3} language{'s' if size > 1 else ''}")
    return 0
