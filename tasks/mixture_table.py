"""What a mixture does with an examples directory: rate and epochs of each language, as a table."""

import textwrap
from pathlib import Path
from typing import Any

from pipelines.languages import languages
from pipelines.outputs import read_manifest
from tasks.mixtures import Mixture

#: Up to this many epochs, repeated text was nearly as good as fresh (Muennighoff et al. 2023,
#: "Scaling data-constrained language models").
HARMLESS_EPOCHS = 4


def describe_mixture(
    examples: str | Path, mixture: Mixture, steps: int, batch_size: int
) -> dict[str, Any]:
    """Rates and epochs of a training of `steps` batches of `batch_size` sequences.

    Returns:
        `sequences` (of the whole training), `languages`: a list of {lang, name, rate, records,
        tokens, documents, sequences, epochs, repeated}, the largest rate first; `left_out`:
        languages of the directory with training text that the mixture leaves out; `warnings`.

    Raises:
        UserError: no finished examples directory, or the mixture does not suit it.
    """
    described = read_manifest(examples, "examples")["languages"]
    train = {lang: splits["train"] for lang, splits in described.items() if "train" in splits}
    records = {lang: entry["records"] for lang, entry in train.items()}
    budget = steps * batch_size
    rates = mixture.rates(records, budget)
    rows = [
        {
            "lang": lang,
            "name": languages()[lang].name,
            "rate": rate,
            "records": records[lang],
            "tokens": train[lang]["tokens"],
            "documents": train[lang]["documents"],
            "sequences": rate * budget,
            "epochs": rate * budget / records[lang],
            # A cap of 4 is not above 4 by a rounding error.
            "repeated": rate * budget / records[lang] > HARMLESS_EPOCHS * (1 + 1e-9),
        }
        for lang, rate in sorted(rates.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {
        "sequences": budget,
        "languages": rows,
        "left_out": sorted(records.keys() - rates.keys()),
        "warnings": _warnings(rows, mixture.exceeds(records, budget), mixture.max_epochs),
    }


def _warnings(rows: list[dict[str, Any]], exceeds: bool, max_epochs: float | None) -> list[str]:
    found = []
    repeated = [row for row in rows if row["repeated"]]
    if repeated:
        worst = max(repeated, key=lambda row: row["epochs"])
        fixes = "add text or train for fewer steps"
        if max_epochs is None:
            fixes += ", or choose a mixture with max_epochs"
        found.append(
            f"{len(repeated)} of {len(rows)} languages are repeated more than {HARMLESS_EPOCHS} "
            f"times ({worst['lang']}: {worst['epochs']:,.1f}): {fixes}"
        )
    if exceeds:
        found.append(
            f"the training is longer than {max_epochs:g} epochs of everything, so that no cap can "
            "hold: all languages are repeated alike"
        )
    return found


def format_mixture(table: dict[str, Any]) -> str:
    """The table for a terminal, languages that are repeated too often marked with `!`."""
    rows = table["languages"]
    total = {
        "lang": "all",
        "name": "",
        "repeated": False,
        "epochs": table["sequences"] / sum(row["records"] for row in rows),
        **{name: sum(row[name] for row in rows) for name in ("rate", "records", "tokens")},
    }
    wide = max(len(row["name"]) for row in rows)
    lines = [
        f"{'code':8} {'language':{wide}} {'rate':>8} {'records':>13} {'tokens':>17} {'epochs':>9}"
    ]
    lines += [
        f"{row['lang']:8} {row['name']:{wide}} {row['rate']:8.3%} {row['records']:13,} "
        f"{row['tokens']:17,} {row['epochs']:9,.2f}{' !' if row['repeated'] else ''}"
        for row in (*rows, total)
    ]
    if table["left_out"]:
        lines += textwrap.wrap(f"left out: {', '.join(table['left_out'])}", 100)
    lines += [f"warning: {warning}" for warning in table["warnings"]]
    return "\n".join(lines)
