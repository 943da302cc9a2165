"""Describe a mixture as a table: rate and epochs of each language of a task."""

import textwrap
from typing import Any

from mswitch.pipelines.languages import find_language
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.batches.multitask import TaskMixture, name_leaf

#: Epochs up to which repeated text was nearly as good as fresh (Muennighoff et al. 2023, "Scaling
#: data-constrained language models").
HARMLESS_EPOCHS = 4


def describe_mixture(mixture: TaskMixture, steps: int, batch_size: int) -> dict[str, Any]:
    """Compute each language's rate and epochs for `steps` batches of `batch_size` sequences.

    Returns:
        `sequences` (of the whole training). `languages`: a list of {leaf, lang, name, rate,
        records, tokens, documents, copies (of a document, in the mean; `ExamplesConfig.weights`),
        sequences, epochs, repeated}, the largest rate first; a leaf is a language, or
        `task/language`. `left_out`: leaves with training text that the mixture leaves out.
        `warnings`.
    """
    records: dict[str, dict[str, int]] = {}
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for task, weighted in mixture.tasks.items():
        described = read_manifest(weighted.directory, "examples")["languages"]
        train = {lang: splits["train"] for lang, splits in described.items() if "train" in splits}
        records[task] = {lang: entry["records"] for lang, entry in train.items()}
        entries |= {name_leaf(task, lang): (lang, entry) for lang, entry in train.items()}
    budget = steps * batch_size
    rates = mixture.rates(records, budget)
    rows = []
    for leaf, rate in sorted(rates.items(), key=lambda item: (-item[1], item[0])):
        lang, entry = entries[leaf]
        epochs = rate * budget / entry["records"]
        rows.append(
            {
                "leaf": leaf,
                "lang": lang,
                "name": find_language(lang).name,
                "rate": rate,
                **{name: entry[name] for name in ("records", "tokens", "documents")},
                "copies": entry["copies"] / entry["documents"] if "copies" in entry else 1.0,
                "sequences": rate * budget,
                "epochs": epochs,
                # With a cap of 4, a rounding error above 4 epochs does not count as repetition.
                "repeated": epochs > HARMLESS_EPOCHS * (1 + 1e-9),
            }
        )
    return {
        "sequences": budget,
        "languages": rows,
        "left_out": sorted(entries.keys() - rates.keys()),
        "warnings": _list_warnings(rows, mixture, mixture.list_exceeding(records, budget)),
    }


def _list_warnings(
    rows: list[dict[str, Any]], mixture: TaskMixture, exceeding: list[str]
) -> list[str]:
    entries = []
    caps = {name: task.mixture.max_epochs for name, task in mixture.tasks.items()}
    repeated = [row for row in rows if row["repeated"]]
    if repeated:
        worst = max(repeated, key=lambda row: row["epochs"])
        fixes = "add text or train for fewer steps"
        if None in caps.values():
            fixes += ", or choose a mixture with max_epochs"
        entries.append(
            f"{len(repeated)} of {len(rows)} languages are repeated more than {HARMLESS_EPOCHS} "
            f"times ({worst['leaf']}: {worst['epochs']:,.1f}): {fixes}"
        )
    entries += [
        f"the training is longer than {caps[name]:g} epochs of everything{name and ' of '}{name}, "
        "so no cap can hold: all languages are repeated equally"
        for name in exceeding
    ]
    return entries


def format_mixture(table: dict[str, Any]) -> str:
    """Format the table for a terminal; `!` marks languages that are repeated too often."""
    rows = table["languages"]
    total = {
        "leaf": "all",
        "name": "",
        "repeated": False,
        "epochs": table["sequences"] / sum(row["records"] for row in rows),
        **{name: sum(row[name] for row in rows) for name in ("rate", "records", "tokens")},
    }
    copied = any(row["copies"] != 1 for row in rows)
    if copied:
        documents = sum(row["documents"] for row in rows)
        total["copies"] = sum(row["copies"] * row["documents"] for row in rows) / documents
    wide = max(len(row["name"]) for row in rows)
    leaf = max(8, *(len(row["leaf"]) for row in rows))
    lines = [
        f"{'code':{leaf}} {'language':{wide}} {'rate':>8} {'records':>13} {'tokens':>17} "
        f"{'epochs':>9}{'  copies' if copied else ''}"
    ]
    lines += [
        f"{row['leaf']:{leaf}} {row['name']:{wide}} {row['rate']:8.3%} {row['records']:13,} "
        f"{row['tokens']:17,} {row['epochs']:9,.2f}"
        f"{format(row['copies'], '8.2f') if copied else ''}{' !' if row['repeated'] else ''}"
        for row in (*rows, total)
    ]
    if table["left_out"]:
        lines += textwrap.wrap(f"left out: {', '.join(table['left_out'])}", 100)
    lines += [f"warning: {warning}" for warning in table["warnings"]]
    return "\n".join(lines)
