"""Limits on quality by language, fitted on the columns of corpora that were measured, not filtered.

One set of limits does not fit all languages: words are longer in Finnish, and a line of Thai ends
without a full stop. The methods are those that won for each group of columns in FineWeb2 (Penedo et
al. 2025, section 4.4.2): what the limit for English cuts there is the yardstick.
"""

import collections
import csv
import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines.corpus.reader import Corpus, open_corpus
from mswitch.pipelines.corpus.rules.quality import (
    COLUMNS,
    CORPUS_COLUMNS,
    LANG_SCORE,
    GopherQuality,
)
from mswitch.pipelines.corpus.rules.words import chunks, cut
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest, write_atomically
from mswitch.pipelines.progress import Progress

#: The language whose limits are known.
ENGLISH = "en"
#: Documents of a language that are looked at, from the beginning of each shard in turn.
MOST_DOCUMENTS = 50_000
#: Share of the reference that a limit without a counterpart in English cuts (CulturaX's).
_TAIL = 0.1
_TAILS = ("terminal_line_share", "third_longest_line")
#: mC4's limit on the third-longest line, where the corpus has none: no language needs longer ones.
_LONG_LINE = 200
_QUANTILES = ("mean_word_length", "alphabetic_word_share")
_DEVIATIONS = tuple(name for name in COLUMNS if "duplicate" in name or name.startswith("top_"))

#: Documents of a language whose words are counted.
_MOST_TEXTS = 2_000
_STOP_WORD_SHARE, _FEWEST_STOP_WORDS = 0.008, 8
#: Words of a language that may be stop words.
_FREQUENT_WORDS = 10_000
_CLUSTER_SIZE = "cluster_size"
#: A share of fewer documents is chance.
_FEWEST_OF_SIZE = 30

Columns = Mapping[str, np.ndarray]
Limits = dict[str, dict[str, tuple[float, float]]]


def fit_thresholds(
    corpus: str | Path,
    out: str | Path,
    *,
    reference: str | Path = "",
    min_documents: int = 100,
    stop_words: str | Path = "",
    weights: str | Path = "",
    max_weight: int = 5,
) -> dict[str, Any]:
    """Write limits by language as a CSV for `GopherQuality.thresholds`, and more if asked to.

    Repetition is fitted on `corpus`, a crawl; lengths of words and lines, and ends of lines, on
    `reference`.
    Languages with fewer documents keep the limits that there are for all.

    Args:
        corpus: a corpus that was built with `quality.drop=false`.
        out: the CSV, by path or URL.
        reference: another such corpus, of good text, such as of an encyclopedia; by default the
            same.
        min_documents: fewest documents of a language, in each.
        stop_words: another CSV, for `GopherQuality.stop_words`: the most frequent words of
            `reference` by language (`fit_stop_words`).
        weights: another CSV: how often documents are to be trained on, by language and size of
            their cluster of near-duplicates (`fit_weights`), with the new limits.
        max_weight: the largest of these.

    Returns:
        stage, changes to the rule's settings, and languages: of each its documents and the share
        of them that is dropped, with the limits for all and with its own, by reason.
    """
    policy, crawl = read_columns(corpus, (_CLUSTER_SIZE,) if weights else ())
    good = read_columns(reference)[1] if reference else crawl
    for place, found in ((corpus, crawl), (reference or corpus, good)):
        if len(found.get(ENGLISH, {}).get("words", ())) < min_documents:
            raise UserError(
                f"{place} has fewer than {min_documents} documents in English, whose limits are "
                "the yardstick: give a larger one"
            )
    write_thresholds(out, fit_limits(policy, crawl, good, min_documents))
    if stop_words:
        texts = _texts(reference or corpus, min(min_documents, _MOST_TEXTS))
        write_stop_words(stop_words, fit_stop_words(texts))
    if weights:
        judge = dataclasses.replace(policy, thresholds=str(out)).judge
        rows = [("lang", "cluster_size", "weight")]
        for lang, columns in sorted(crawl.items()):
            sizes = columns[_CLUSTER_SIZE]
            dropped = np.array([bool(one) for one in judge(columns, [lang] * len(sizes))])
            if len(sizes) >= min_documents:
                rows += [(lang, *step) for step in fit_weights(sizes, dropped, max_weight)]
        write_atomically(weights, _csv(rows))
    changes = {"thresholds": str(out)} | ({"stop_words": str(stop_words)} if stop_words else {})
    return {"stage": "fit", "changes": changes, "languages": _effect(policy, crawl, str(out))}


def fit_limits(
    policy: GopherQuality,
    crawl: Mapping[str, Columns],
    reference: Mapping[str, Columns],
    min_documents: int,
) -> Limits:
    """Return limits by language and column.

    Args:
        policy: the limits for all, which are those for English.
        crawl: the `COLUMNS` of documents and their `LANG_SCORE`, by language.
        reference: those of good text.
        min_documents: fewest documents of a language, in each.
    """
    limits = {name: (low, high) for _, name, low, high in policy.each_limit()}
    fitted: Limits = {}
    for lang in sorted(crawl.keys() & reference.keys() - {ENGLISH}):
        if min(len(found[lang]["words"]) for found in (crawl, reference)) >= min_documents:
            found = {
                **_of_reference(reference[lang], reference[ENGLISH], limits),
                **_of_crawl(crawl[lang], crawl[ENGLISH], limits),
            }
            if LANG_SCORE in crawl[lang]:
                found[LANG_SCORE] = _least_score(crawl[lang][LANG_SCORE]), np.inf
            fitted[lang] = {n: found[n] for n in (*COLUMNS, LANG_SCORE) if n in found}
    return fitted


def write_thresholds(path: str | Path, fitted: Limits) -> None:
    """Write limits as `read_thresholds` reads them; what is off is left empty."""
    rows = [("lang", "column", "least", "most")]
    for lang, columns in fitted.items():
        for name, (low, high) in columns.items():
            shown = f"{low:.4g}" if low > 0 else "", f"{high:.4g}" if np.isfinite(high) else ""
            rows.append((lang, name, *shown))
    write_atomically(path, _csv(rows))


def write_stop_words(path: str | Path, lists: Mapping[str, str]) -> None:
    """Write words as `read_stop_words` reads them."""
    write_atomically(path, _csv([("lang", "words"), *lists.items()]))


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def fit_weights(sizes: np.ndarray, dropped: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return weights of a language's documents by the size of their cluster.

    Where as many are dropped as of all, or more, the weight is 1; where fewest are, it is `most`;
    between them, it is in proportion (Penedo et al. 2025, section 4.5). Shares are smoothed over
    five sizes, of too few documents say nothing, and the largest 0.1 % of clusters are one size.

    Args:
        sizes: pages that each document stands for, [documents].
        dropped: whether a filter drops it, [documents].
        most: the largest weight.

    Returns:
        The sizes from which on a weight holds, and these, from size 1 on.
    """
    sizes = np.minimum(sizes, int(np.quantile(sizes, 0.999, method="higher")))
    kinds, place = np.unique(sizes, return_inverse=True)
    counts, lost = (np.bincount(place, weights=of) for of in (None, dropped))
    window = np.ones(min(5, (len(kinds) - 1) | 1))
    near, lost_near = (np.convolve(of, window, "same") for of in (counts, lost))
    whole = float(dropped.mean())
    shares = np.where(near >= _FEWEST_OF_SIZE, lost_near / near, whole)
    gain = np.maximum(0, whole - shares)
    scaled = 1 + (most - 1) * gain / (gain.max() or 1)
    weights = np.rint(scaled).astype(int).tolist()
    changes = [n for n in range(len(kinds)) if n == 0 or weights[n] != weights[n - 1]]
    return [(int(kinds[n]) if n else 1, weights[n]) for n in changes]


def fit_stop_words(texts: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the most frequent words of languages, separated by spaces.

    Those that are at least 0.8 % of a document on average, and no fewer than eight, or none (Penedo
    et al. 2025, appendix A.7.1). Words of which English has more are English in others' text.

    Args:
        texts: languages and their documents, English among them.
    """
    shares = {lang: _word_shares(of_lang) for lang, of_lang in texts}
    english = collections.Counter(shares[ENGLISH])
    lists = {}
    for lang, own in sorted(shares.items()):
        words = [
            word
            for word, share in own.items()
            if (lang == ENGLISH or share > english[word]) and not any(map(str.isnumeric, word))
        ]
        words.sort(key=lambda word: (-own[word], word))
        most = sum(own[word] >= _STOP_WORD_SHARE for word in words)
        if len(words) >= _FEWEST_STOP_WORDS:
            lists[lang] = " ".join(words[: max(most, _FEWEST_STOP_WORDS)])
    return lists


def _word_shares(texts: Sequence[str]) -> dict[str, float]:
    """Return which share of a document frequent words are, on average."""
    found: collections.Counter[str] = collections.Counter()
    for start, stop in chunks(texts):
        words = cut(texts[start:stop])
        letters = words.codes.tobytes().decode("utf-32-le", "surrogatepass")
        spans = [letters[a:b] for a, b in zip(words.starts, words.ends, strict=True)]
        for first, last in itertools.pairwise(words.first):
            for word, count in collections.Counter(spans[first:last]).items():
                found[word] += count / ((last - first) * len(texts))
    return dict(found.most_common(_FREQUENT_WORDS))


def _texts(corpus: str | Path, min_documents: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the first documents of each language that has enough."""
    shards = open_corpus(corpus).shards
    progress = Progress("fit", "words", len({shard.lang for shard in shards}), "languages")
    for lang, of_lang in itertools.groupby(shards, key=lambda shard: shard.lang):
        rows = (row for shard in of_lang for row in shard.documents(("text",)))
        texts = [row["text"] for row in itertools.islice(rows, _MOST_TEXTS)]
        if len(texts) >= min_documents:
            yield lang, texts
        progress.add(1, lang)


def read_columns(
    corpus: str | Path, more: Sequence[str] = ()
) -> tuple[GopherQuality, dict[str, Columns]]:
    """Return the limits that a corpus was built with, and its columns of quality by language.

    Args:
        corpus: path or URL.
        more: names of further columns.
    """
    settings = read_manifest(corpus, "corpus")["config"]
    own = settings.get("steps", {}).get("quality", {})
    if own.get("drop", True):
        raise UserError(
            f"{corpus} has only what its limits on quality left: build it with --profile modern "
            "--set quality.drop=false, which measures alone"
        )
    opened = open_corpus(corpus)
    progress = Progress("fit", "read", len(opened.shards), "shards")
    parts: dict[str, list[Columns]] = collections.defaultdict(list)
    rows: collections.Counter[str] = collections.Counter()
    for lang, columns in _read(opened, more):
        if rows[lang] < MOST_DOCUMENTS:
            parts[lang].append(columns)
            rows[lang] += len(columns["words"])
        progress.add(1, lang)
    limits: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in own.items()
        if name not in ("drop", "stop_words", "thresholds")
    }
    return GopherQuality(**limits), {
        lang: {name: np.concatenate([part[name] for part in of_lang]) for name in of_lang[0]}
        for lang, of_lang in parts.items()
    }


def _read(corpus: Corpus, more: Sequence[str]) -> Iterator[tuple[str, Columns]]:
    columns = {**CORPUS_COLUMNS, LANG_SCORE: LANG_SCORE} | {name: name for name in more}
    for shard in corpus.shards:
        batches = list(shard.batches(list(columns)))
        if batches and (missing := columns.keys() - {*batches[0].schema.names}):
            raise UserError(
                f"{corpus.directory} has no column {min(missing)}, so another version built it: "
                f"`mswitch corpus build --profile modern --from {corpus.directory}`, with its "
                "settings, measures again"
            )
        yield (
            shard.lang,
            {
                name: np.concatenate([batch[column].to_numpy() for batch in batches])
                for column, name in columns.items()
            },
        )


def _least_score(scores: np.ndarray) -> float:
    """Return the least score of a language: a deviation below its median, from 0.3 to 0.9.

    Penedo et al. 2025, section 4.2. Scores belong to a crawl and to what identifies languages.
    """
    return float(np.clip(np.median(scores) - scores.std(), 0.3, 0.9))


def _of_reference(
    own: Columns, english: Columns, limits: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return limits that cut as much of a language's good text as those for English cut there."""
    found = {}
    for name in _TAILS:
        least = float(np.quantile(own[name], _TAIL))
        strictest = (limits[name][0] or _LONG_LINE) if name == "third_longest_line" else 1
        found[name] = _clamped(name, min(least, strictest), np.inf)
    for name in _QUANTILES:
        low, high = limits[name]
        values, known = own[name], english[name]
        if not values.any():  # in scripts without spaces lengths of words are not measured
            continue
        least = float(np.quantile(values, np.mean(known < low)))
        most = float(np.quantile(values, 1 - np.mean(known > high)))
        found[name] = _clamped(name, least, most if name == "mean_word_length" else np.inf)
    return found


def _of_crawl(
    own: Columns, english: Columns, limits: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return limits as many deviations from the mean as those for English are there.

    None is stricter than for all: where a crawl's English repeats itself more than other languages,
    these would be cut as hard for no fault of theirs.
    """
    found = {}
    for name in _DEVIATIONS:
        _, high = limits[name]
        spread = float(english[name].std())
        if spread > 0:
            far = (high - float(english[name].mean())) / spread
            most = float(own[name].mean() + far * own[name].std())
            found[name] = _clamped(name, 0, max(high, most))
    return found


def _clamped(name: str, low: float, high: float) -> tuple[float, float]:
    """Return limits that could drop something; what could not is off: 0, or infinity."""
    largest = np.inf if name == "mean_word_length" else 1
    return max(0.0, low), (high if 0 < high < largest else np.inf)


def _effect(policy: GopherQuality, crawl: Mapping[str, Columns], thresholds: str) -> dict[str, Any]:
    """Return which share of each language is dropped with and without its own limits."""
    languages: dict[str, Any] = {}
    for lang in sorted(crawl):
        count = len(crawl[lang]["words"])
        languages[lang] = {"documents": count}
        own = dataclasses.replace(policy, thresholds=thresholds)
        for what, judge in (("before", policy.judge), ("after", own.judge)):
            reasons = collections.Counter(judge(crawl[lang], [lang] * count))
            del reasons[None]
            languages[lang][what] = {
                "dropped": reasons.total() / count,
                "by_reason": {reason: n / count for reason, n in reasons.most_common() if reason},
            }
    return languages


def format_fit(found: Mapping[str, Any]) -> str:
    """Return what `fit_thresholds` returns as a table, a language a line."""
    lines = [f"{'':8}{'documents':>10}{'dropped':>10}{'fitted':>9}  by reason, with its own limits"]
    for lang, row in found["languages"].items():
        before, after = row["before"]["dropped"], row["after"]["dropped"]
        reasons = ", ".join(f"{name} {n:.1%}" for name, n in row["after"]["by_reason"].items())
        lines.append(f"{lang:8}{row['documents']:>10,}{before:>10.1%}{after:>9.1%}  {reasons}")
    changes = " ".join(f"--set quality.{name}={path}" for name, path in found["changes"].items())
    return "\n".join([*lines, f"build with them: {changes}"])
