"""Write HTML pages about corpora: statistics, and filter limits fitted per language."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.flows.reports.numbers import fine_percent
from mswitch.flows.reports.pages import language_fields, render_page
from mswitch.flows.reports.svg import Drawing, inline_svg, line, rect, svgs_on_screens, text
from mswitch.pipelines.corpus.fit import SAMPLES
from mswitch.pipelines.corpus.ledger import UNSAMPLED
from mswitch.pipelines.corpus.rules.text_script import measure_script_share
from mswitch.pipelines.corpus.stats import load_stats, sum_languages
from mswitch.pipelines.corpus.survey import read_rejected_samples, survey
from mswitch.pipelines.languages import languages, script_name
from mswitch.pipelines.outputs import check_output_files, read_manifest, write_atomically

SAMPLES_SHOWN = 5
SCRIPTS_SHOWN = 12
#: Scripts with a smaller share of a language's letters are not shown.
LEAST_SHARE = 0.001


def write_page(corpus: str | Path, file: str | Path) -> dict[str, Any]:
    """Survey a corpus and write its statistics as one self-contained HTML page.

    Args:
        corpus: a finished corpus directory.
        file: path or URL of the page; not in the corpus, which must stay as published.

    Returns:
        The survey (`mswitch.pipelines.corpus.survey.survey`).
    """
    stats = load_stats(corpus)
    check_output_files(html=file)
    surveyed = survey(corpus)
    reasons = [reason for stage in stats["stages"] for reason in stage["dropped"]]
    config = read_manifest(corpus, "corpus")["config"]
    rows = [_row(total, surveyed["languages"][total["lang"]]) for total in sum_languages(stats)]
    size = sum(row["bytes"] for row in rows)
    for row in rows:
        row["share"] = row["bytes"] / max(size, 1)
    of_language = config.get("steps", {}).get("language", {})
    whole = [sum(column) for column in zip(*(row["scores"] for row in rows), strict=True)]
    threshold = of_language.get("language_threshold")
    page = render_page(
        "corpus.html.j2",
        {"languages": rows, "stages": stats["stages"], "lines": stats["lines"]},
        name=Path(corpus).resolve().name,
        documents=sum(row["documents"] for row in rows),
        bytes=size,
        histograms={
            row["lang"]: inline_svg(
                score_histogram(
                    np.reshape(row["scores"], (-1, 5)).sum(axis=1).tolist(),
                    *(None, 300, 84, f"Scores of {row['name']}"),
                ),
                f"score-{row['lang']}",
            )
            for row in rows
        },
        scores=svgs_on_screens(
            lambda width, **_: score_histogram(whole, threshold, width, 180, "Language scores"),
            "scores",
        ),
        scripts_figure=svgs_on_screens(
            lambda width, **_: share_bars(_script_shares(rows), width, "Scripts of the text"),
            "scripts",
        ),
        samples=read_rejected_samples(corpus, reasons, SAMPLES_SHOWN),
        samples_shown=SAMPLES_SHOWN,
        unsampled=UNSAMPLED,
        found=surveyed,
        keep_und=of_language.get("keep_und"),
        config={key: value for key, value in sorted(config.items()) if key != "inputs"},
        inputs=len(config.get("inputs", ())),
        least_share=LEAST_SHARE,
        drops_known=any(row["dropped"] for row in rows),
    )
    write_atomically(file, page)
    return surveyed


def _row(total: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    known = languages().get(total["lang"])
    letters = sum(seen["scripts"].values())
    below = np.cumsum(seen["scores"])
    middle = int(np.searchsorted(below, below[-1] / 2))
    return {
        **language_fields(total["lang"]),
        **total,
        **seen,
        "in_script": measure_script_share(seen["scripts"], known) if known and letters else None,
        "script_shares": [(code, count / letters) for code, count in seen["scripts"].items()],
        "median_score": (middle + 0.5) / len(below) if below[-1] else None,
        "largest_site": seen["sites"][0][1] / max(seen["documents"], 1) if seen["sites"] else None,
    }


def _script_shares(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    weights: dict[str, float] = {}
    for row in rows:
        for code, share in row["script_shares"]:
            weights[code] = weights.get(code, 0) + share * row["characters"]
    total = sum(weights.values())
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    shares = [(script_name(code), weight / total) for code, weight in ordered[:SCRIPTS_SHOWN]]
    rest = sum(weight for _, weight in ordered[SCRIPTS_SHOWN:])
    return shares + ([("all others", rest / total)] if rest else [])


def score_histogram(
    counts: Sequence[int], threshold: float | None, width: int, height: int, title: str
) -> Drawing:
    """Draw a histogram of documents by language score, 0 to 1, and mark the build's threshold."""
    top, bottom, left, right = 16, height - 20, 4, width - 4
    most, step = max(*counts, 1), (right - left) / len(counts)
    parts = [text(left, 10, f"{most:,} documents", "")]
    for index, count in enumerate(counts):
        # A bar of one document must be visible beside bars of millions.
        tall = max((bottom - top) * count / most, 1.0) if count else 0
        if tall:
            wide = max(step - 1, 0.5)
            parts.append(rect(left + index * step, bottom - tall, wide, tall, "bar"))
    parts.append(line(left, bottom, right, bottom, "axis"))
    for value, css in ((0.0, ""), (0.5, "mid"), (1.0, "end")):
        parts.append(text(left + value * (right - left), height - 6, f"{value:g}", css))
    if threshold is not None:
        x = left + threshold * (right - left)
        parts.append(line(x, top, x, bottom, "median"))
        side = (x - 4, "mark end halo") if threshold > 0.5 else (x + 4, "mark halo")
        parts.append(text(side[0], top + 10, f"threshold {threshold:g}", side[1]))
    low = next((index for index, count in enumerate(counts) if count), 0) / len(counts)
    desc = f"{sum(counts):,} documents; the lowest score is at or above {low:g}."
    return Drawing(width, height, title, desc, "".join(parts))


def share_bars(rows: Sequence[tuple[str, float]], width: int, title: str) -> Drawing:
    """Draw a horizontal bar for each share of a whole."""
    label, number, high = 104, 52, 20
    room = width - label - number
    parts = []
    for index, (name, share) in enumerate(rows):
        y = index * high
        parts.append(text(label - 8, y + 14, name, "ink end"))
        parts.append(rect(label, y + 4, max(room * share, 1), high - 8, "bar"))
        parts.append(text(label + room * share + 6, y + 14, fine_percent(share), ""))
    desc = ", ".join(f"{name} {fine_percent(share)}" for name, share in rows)
    return Drawing(width, len(rows) * high + 4, title, desc, "".join(parts))


def write_fit_page(fitted: Mapping[str, Any], html: str | Path) -> None:
    """Write the page of `mswitch corpus fit`: drops by language and rule, by old and fitted limits.

    Args:
        fitted: the result of `fit_thresholds`.
        html: path or URL of the page.
    """
    languages = [
        {**language_fields(lang), **row} for lang, row in sorted(fitted["languages"].items())
    ]
    name = Path(fitted["changes"].get("thresholds", "nothing is fitted")).name
    write_atomically(
        html, render_page("fit.html.j2", {"languages": languages}, name=name, most=SAMPLES)
    )
