"""Fits quality limits to each language, on corpora that were measured but not filtered.

One set of limits does not fit all languages: words are longer in Finnish, and a line of Thai ends
without a full stop. Each group of columns uses the method that won for it in FineWeb2 (Penedo et
al. 2025, section 4.4.2). The yardstick is how much text the limit for English cuts in English.
"""

import collections
import csv
import dataclasses
import decimal
import io
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines.corpus.reader import check_clustered, open_corpus
from mswitch.pipelines.corpus.rules.quality import (
    COLUMNS,
    CORPUS_COLUMNS,
    LANG_SCORE,
    GopherQuality,
)
from mswitch.pipelines.corpus.rules.segmenter import find_locale
from mswitch.pipelines.corpus.rules.words import chunks, cut
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest, write_atomically
from mswitch.pipelines.progress import Progress, say

#: Language from whose limits the limits of other languages are derived.
ENGLISH = "en"
#: Maximum number of documents of a language to read, from all shards together.
MOST_DOCUMENTS = 50_000
#: A fitted limit on a column in `_TAILS` drops this share of the reference text, as in CulturaX.
#: English has no such limits by default.
_TAIL = 0.1
_TAILS = ("terminal_line_share", "third_longest_line")
#: mC4's limit on the third-longest line, for corpora without such a limit. A fitted limit is never
#: stricter than this limit.
_LONG_LINE = 200
_QUANTILES = ("mean_word_length", "alphabetic_word_share")
_DEVIATIONS = tuple(name for name in COLUMNS if "duplicate" in name or name.startswith("top_"))

#: Maximum number of documents of a language whose words are counted.
_MOST_TEXTS = 2_000
_STOP_WORD_SHARE, _FEWEST_STOP_WORDS = 0.008, 8
#: Number of a language's most frequent words among which stop words are chosen.
_FREQUENT_WORDS = 10_000
#: In scripts without spaces, a piece of text is a letter instead of a word. If more than this share
#: of a language's pieces are letters, the language's words are unknown.
_UNSPACED_SHARE = 0.5
#: Format characters that are part of words, as in Persian and Hindi.
_JOINERS = "\u200c\u200d"
#: Join neighbouring cluster sizes until they have this many documents. In fewer documents, the
#: dropped share may be due to chance.
_FEWEST_OF_SIZE = 100
#: Value of chi squared (one degree of freedom) that one in 1,000 tests exceeds by chance. There is
#: a test for each cluster size.
_CERTAIN = 10.83

#: Number of documents that the report page shows of each reason.
SAMPLES = 3
#: Maximum number of languages to name in a line, and maximum characters to show of a document.
_NAMED, _SHOWN = 20, 300

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
    cluster_size: str = "cluster_size",
    samples: int = 0,
) -> dict[str, Any]:
    """Write a CSV of limits by language for `GopherQuality.thresholds`; on request also other CSVs.

    Limits on repetition are fitted on `corpus`, a crawl; limits on lengths of words and lines, and
    on ends of lines, on `reference`.

    Args:
        corpus: a corpus built with `quality.drop=false`.
        out: path or URL of the CSV.
        reference: another such corpus, of good text such as an encyclopedia; default: `corpus`.
        min_documents: fewest documents of a language, in each corpus; languages with fewer keep the
            limits for all.
        stop_words: another CSV, for `GopherQuality.stop_words` (`fit_stop_words` of `reference`).
        weights: another CSV: how often to train on documents, by language and size of their cluster
            of near-duplicates (`fit_weights`), under the new limits.
        max_weight: the largest weight.
        cluster_size: column of `corpus` with the size of these clusters.
        samples: number of documents to show that each limit newly drops or keeps.

    Returns:
        stage, changes to the rule's settings, and languages. Each language has its documents,
        whether it has its own limits, and the dropped share, by reason, under the limits for all
        (`before`) and its own (`after`). With samples, also what each reason
        `newly_dropped` and `newly_kept`.
    """
    if weights:
        check_clustered(open_corpus(corpus), cluster_size)
    policy, crawl = read_columns(corpus, (cluster_size,) if weights else ())
    good = read_columns(reference)[1] if reference else crawl
    for place, columns in ((corpus, crawl), (reference or corpus, good)):
        if len(columns.get(ENGLISH, {}).get("words", ())) < min_documents:
            raise UserError(
                f"{place} has fewer than {min_documents} documents in English, the yardstick for "
                "all limits: give a larger corpus"
            )
    fitted = fit_limits(policy, crawl, good, min_documents)
    write_thresholds(out, fitted)
    changes = {"thresholds": str(out)} if fitted else {}
    if stop_words:
        if not reference:
            say("fit", "warning: a crawl's stop words include spam: give --reference, good text")
        texts = _read_texts(reference or corpus, min(min_documents, _MOST_TEXTS))
        write_stop_words(stop_words, fit_stop_words(texts, segmented=bool(policy.segmenter)))
        changes["stop_words"] = str(stop_words)
    own = dataclasses.replace(policy, thresholds=str(out)) if fitted else policy
    reasons = {
        lang: [rule.judge(columns, [lang] * len(columns["words"])) for rule in (policy, own)]
        for lang, columns in sorted(crawl.items())
    }
    if weights:
        rows = [("lang", "cluster_size", "weight")]
        for lang, (_, after) in reasons.items():
            if len(after) >= min_documents:
                dropped = np.array([reason is not None for reason in after])
                steps = fit_weights(crawl[lang][cluster_size], dropped, max_weight)
                rows += [(lang, *step) for step in steps]
        write_atomically(weights, _format_csv(rows))
    news = _sample(corpus, reasons, samples) if samples else {}
    languages = {
        lang: {
            "documents": len(before),
            "own_limits": lang in fitted,
            "before": _count(before),
            "after": _count(after),
            **news.get(lang, {}),
        }
        for lang, (before, after) in reasons.items()
    }
    _say_what_keeps_limits(languages, min_documents)
    return {"stage": "fit", "changes": changes, "languages": languages}


def fit_limits(
    policy: GopherQuality,
    crawl: Mapping[str, Columns],
    reference: Mapping[str, Columns],
    min_documents: int,
) -> Limits:
    """Return limits on quality columns, fitted to the text of each language.

    Args:
        policy: the limits for all languages, which are the limits for English.
        crawl: the `COLUMNS` of documents and their `LANG_SCORE`, by language.
        reference: the same of good text.
        min_documents: fewest documents of a language, in each.
    """
    limits = {name: (low, high) for _, name, low, high in policy.each_limit()}
    fitted: Limits = {}
    for lang in sorted(crawl.keys() & reference.keys() - {ENGLISH}):
        if min(len(columns[lang]["words"]) for columns in (crawl, reference)) >= min_documents:
            own = {
                **_fit_on_reference(reference[lang], reference[ENGLISH], limits),
                **_fit_on_crawl(crawl[lang], crawl[ENGLISH], limits),
            }
            if (scores := crawl[lang].get(LANG_SCORE)) is not None:
                # Penedo et al. 2025, section 4.2. The limit fits only this crawl and identifier.
                least = float(np.clip(np.median(scores) - scores.std(), 0.3, 0.9))
                own[LANG_SCORE] = least, np.inf
            fitted[lang] = {n: own[n] for n in (*COLUMNS, LANG_SCORE) if n in own}
    return fitted


def write_thresholds(path: str | Path, fitted: Limits) -> None:
    """Write limits for `read_thresholds`; if a limit is switched off, its cell is empty."""
    rows = [("lang", "column", "least", "most")]
    for lang, columns in fitted.items():
        for name, (low, high) in columns.items():
            least = _round(low, decimal.ROUND_FLOOR) if low > 0 else ""
            most = _round(high, decimal.ROUND_CEILING) if np.isfinite(high) else ""
            rows.append((lang, name, least, most))
    write_atomically(path, _format_csv(rows))


def _round(limit: float, rounding: str) -> str:
    """Format a limit with four digits, rounded so that it does not get stricter."""
    context = decimal.Context(prec=4, rounding=rounding)
    return f"{context.create_decimal(repr(float(limit))):.4g}"


def write_stop_words(path: str | Path, lists: Mapping[str, str]) -> None:
    """Write words for `read_stop_words`."""
    write_atomically(path, _format_csv([("lang", "words"), *lists.items()]))


def _format_csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def fit_weights(sizes: np.ndarray, dropped: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return weights of a language's documents by the size of their cluster.

    The weight of a cluster size depends on the share of its documents that the filter drops: it is
    1 if this share is at least the share in the whole language, `most` if no document is dropped,
    and proportional between. Neighbouring sizes form one group if a test sees no difference between
    their shares. (Penedo et al. 2025, section 4.5, give `most` to the size with the smallest share,
    however small the difference.)

    Args:
        sizes: pages in the cluster of each document, [documents].
        dropped: whether a filter drops each document, [documents].
        most: the largest weight.

    Returns:
        Pairs of a size and the weight from this size on, beginning with size 1.
    """
    kinds, place = np.unique(sizes, return_inverse=True)
    counts, lost = (np.bincount(place, weights=of) for of in (None, dropped))
    # Each array describes a group of cluster sizes: smallest size, number of documents, number of
    # dropped documents.
    groups: list[np.ndarray] = []
    for row in zip(kinds, counts, lost, strict=True):
        if groups and groups[-1][1] < _FEWEST_OF_SIZE:
            groups[-1][1:] += row[1:]
        else:
            groups.append(np.array(row))
    if len(groups) > 1 and groups[-1][1] < _FEWEST_OF_SIZE:
        last = groups.pop()
        groups[-1][1:] += last[1:]
    while (
        len(groups) > 1
        and min(shown := list(map(_compute_chi_squared, groups, groups[1:]))) < _CERTAIN
    ):
        first = int(np.argmin(shown))
        groups[first][1:] += groups.pop(first + 1)[1:]
    whole = float(dropped.mean())
    shares = np.array([part / count for _, count, part in groups])
    gain = np.maximum(0, whole - shares) / (whole or 1)
    weights = np.rint(1 + (most - 1) * gain).astype(int).tolist()
    changes = [n for n in range(len(groups)) if n == 0 or weights[n] != weights[n - 1]]
    return [(int(groups[n][0]) if n else 1, weights[n]) for n in changes]


def _compute_chi_squared(group: np.ndarray, other: np.ndarray) -> float:
    counts, lost = np.array([group[1:], other[1:]]).T
    share = lost.sum() / counts.sum()
    if not 0 < share < 1:
        return 0.0
    gap = lost[0] / counts[0] - lost[1] / counts[1]
    return float(gap**2 / (share * (1 - share) * (1 / counts).sum()))


def fit_stop_words(
    texts: Iterable[tuple[str, Sequence[str]]], *, segmented: bool = False
) -> dict[str, str]:
    """Return the most frequent words of each language, separated by spaces.

    These are words that make up at least 0.8 % of a document on average, but at least eight words
    (Penedo et al. 2025, appendix A.7.1). Languages with fewer known words are left out. Words that
    are more frequent in English are excluded: they are English within other text.

    Args:
        texts: languages and their documents, English among them.
        segmented: whether to find words where there are no spaces between them.
    """
    shares = {
        lang: _measure_word_shares(documents, find_locale(lang) if segmented else "")
        for lang, documents in texts
    }
    english = collections.Counter(shares[ENGLISH])
    lists = {}
    for lang, own in sorted(shares.items()):
        words = [word for word, share in own.items() if lang == ENGLISH or share > english[word]]
        words.sort(key=lambda word: (-own[word], word))
        most = sum(own[word] >= _STOP_WORD_SHARE for word in words)
        if len(words) >= _FEWEST_STOP_WORDS:
            lists[lang] = " ".join(words[: max(most, _FEWEST_STOP_WORDS)])
    return lists


def _measure_word_shares(texts: Sequence[str], locale: str) -> dict[str, float]:
    """Return, for each frequent word, its share of a document's words on average.

    Return nothing for scripts without spaces if there is no `locale` to segment them in, because
    rules count letters there.
    """
    shares: collections.Counter[str] = collections.Counter()
    for start, stop in chunks(texts):
        words = cut(texts[start:stop], [locale] * (stop - start))
        letters = words.codes.tobytes().decode("utf-32-le", "surrogatepass")
        units = zip(words.starts, words.ends, words.unspaced, strict=True)
        spans = ["" if unspaced else letters[a:b] for a, b, unspaced in units]
        for first, last in itertools.pairwise(words.first):
            for word, count in collections.Counter(spans[first:last]).items():
                shares[word] += count / ((last - first) * len(texts))
    unspaced = shares.pop("", 0)
    words_share = sum(share for word, share in shares.items() if _is_word(word))
    if unspaced > _UNSPACED_SHARE * (unspaced + words_share):
        return {}
    return {word: share for word, share in shares.most_common(_FREQUENT_WORDS) if _is_word(word)}


def _is_word(text: str) -> bool:
    hidden = any(unicodedata.category(char) == "Cf" and char not in _JOINERS for char in text)
    return any(map(str.isalpha, text)) and not any(map(str.isnumeric, text)) and not hidden


def _read_texts(corpus: str | Path, min_documents: int) -> Iterator[tuple[str, list[str]]]:
    shards = open_corpus(corpus).shards
    progress = Progress("fit", "words", len({shard.lang for shard in shards}), "languages")
    for lang, lang_shards in itertools.groupby(shards, key=lambda shard: shard.lang):
        rows = (row for shard in lang_shards for row in shard.documents(("text",)))
        texts = [row["text"] for row in itertools.islice(rows, _MOST_TEXTS)]
        if len(texts) >= min_documents:
            yield lang, texts
        progress.add(1, lang)


def read_columns(
    corpus: str | Path, more: Sequence[str] = ()
) -> tuple[GopherQuality, dict[str, Columns]]:
    """Read a corpus (path or URL): its quality limits, and its documents' columns by language.

    The columns are the quality columns, and those named in `more`.
    """
    settings = read_manifest(corpus, "corpus")["config"]
    own = settings.get("steps", {}).get("quality", {})
    if own.get("drop", True):
        raise UserError(
            f"{corpus} was filtered by its quality limits: build it with --profile modern "
            "--set quality.drop=false, which only measures"
        )
    opened = open_corpus(corpus)
    columns = {**CORPUS_COLUMNS, LANG_SCORE: LANG_SCORE} | {name: name for name in more}
    progress = Progress("fit", "read", len(opened.shards), "shards")
    parts: dict[str, dict[str, list[np.ndarray]]] = collections.defaultdict(
        lambda: {name: [] for name in columns.values()}
    )
    rows: collections.Counter[str] = collections.Counter()
    for shard in opened.shards:
        is_wanted = rows[shard.lang] < MOST_DOCUMENTS
        for batch in shard.batches(list(columns)) if is_wanted else ():
            if missing := columns.keys() - {*batch.schema.names}:
                raise UserError(
                    f"{corpus} has no column {min(missing)}: another version built it; "
                    f"`mswitch corpus build --profile modern --from {corpus}`, with its settings, "
                    "measures again"
                )
            for column, name in columns.items():
                # A document without a cluster size is a single page.
                values = batch[column].fill_null(1) if batch[column].null_count else batch[column]
                parts[shard.lang][name].append(values.to_numpy())
        rows[shard.lang] += shard.rows
        progress.add(1, shard.lang)
    limits: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in own.items()
        if name not in ("drop", "stop_words", "thresholds", "icu_version")
    }
    return GopherQuality(**limits), {
        lang: {name: np.concatenate(arrays) for name, arrays in lang_parts.items()}
        for lang, lang_parts in parts.items()
    }


def _fit_on_reference(
    own: Columns, english: Columns, limits: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return limits that drop the same share of good text as the English limits drop in English."""
    fitted = {}
    for name in _TAILS:
        least = float(np.quantile(own[name], _TAIL))
        strictest = (limits[name][0] or _LONG_LINE) if name == "third_longest_line" else 1
        fitted[name] = _switch_off(name, min(least, strictest), np.inf)
    for name in _QUANTILES:
        low, high = limits[name]
        values, known = own[name], english[name]
        if not values.any():  # word length is not measured in scripts without spaces
            continue
        least = float(np.quantile(values, np.mean(known < low)))
        most = float(np.quantile(values, 1 - np.mean(known > high)))
        fitted[name] = _switch_off(name, least, most if name == "mean_word_length" else np.inf)
    return fitted


def _fit_on_crawl(
    own: Columns, english: Columns, limits: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return limits at the same distance from the mean, in standard deviations, as in English.

    No limit is stricter than the limit for all languages. Otherwise, if a crawl's English text
    repeats itself much, limits of languages whose text repeats itself less would be too strict.
    """
    fitted = {}
    for name in _DEVIATIONS:
        _, high = limits[name]
        spread = float(english[name].std())
        if spread > 0:
            far = (high - float(english[name].mean())) / spread
            most = float(own[name].mean() + far * own[name].std())
            fitted[name] = _switch_off(name, 0, max(high, most))
    return fitted


def _switch_off(name: str, low: float, high: float) -> tuple[float, float]:
    """Return the lower and upper limit; replace a limit that can drop no page by 0 or infinity."""
    largest = np.inf if name == "mean_word_length" else 1
    return max(0.0, low), (high if 0 < high < largest else np.inf)


def _count(reasons: Sequence[str | None]) -> dict[str, Any]:
    counts = collections.Counter(reason for reason in reasons if reason)
    shares = {reason: n / len(reasons) for reason, n in counts.most_common()}
    return {"dropped": counts.total() / len(reasons), "by_reason": shares}


def _say_what_keeps_limits(languages: Mapping[str, Any], min_documents: int) -> None:
    kept = {
        lang: f"{1 - row['after']['dropped']:.0%} of {row['documents']:,}"
        for lang, row in sorted(languages.items(), key=lambda item: -item[1]["documents"])
        if not row["own_limits"]
    }
    say(
        "fit",
        f"warning: the limits for all apply to {ENGLISH}, the yardstick, and keep "
        f"{kept.pop(ENGLISH)} documents: if these are too few, measure with other limits "
        "(--set quality.NAME=VALUE) and fit again",
    )
    if kept:
        named = [f"{lang} {words}" for lang, words in kept.items()]
        more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
        say(
            "fit",
            f"warning: {len(kept):,} languages have fewer than {min_documents:,} documents, in the "
            "corpus or the reference: the limits for all apply to them, and keep "
            f"{', '.join(named[:_NAMED])}{more}: more text in these languages would help, or a "
            "lower --min-documents",
        )


def _sample(
    corpus: str | Path, reasons: Mapping[str, Sequence[Sequence[str | None]]], most: int
) -> dict[str, Any]:
    """Count, by language and reason, the documents newly dropped or kept; add samples."""
    news: dict[str, Any] = {}
    wanted: dict[str, dict[int, dict[str, str]]] = collections.defaultdict(dict)
    for lang, (before, after) in reasons.items():
        news[lang] = {"newly_dropped": {}, "newly_kept": {}}
        for number, (was, now) in enumerate(zip(before, after, strict=True)):
            if reason := (now or was if bool(was) != bool(now) else None):
                counts = news[lang]["newly_dropped" if now else "newly_kept"]
                row = counts.setdefault(reason, {"documents": 0, "pages": []})
                row["documents"] += 1
                if len(row["pages"]) < most:
                    wanted[lang][number] = {}
                    row["pages"].append(wanted[lang][number])
    first: collections.Counter[str] = collections.Counter()
    # Documents are sorted by a hash, so the first documents are a random sample.
    for shard in open_corpus(corpus).shards:
        pages = wanted[shard.lang]
        last = max((n - first[shard.lang] for n in pages), default=-1)
        rows = itertools.islice(shard.documents(("url", "text")), last + 1) if last >= 0 else ()
        for number, row in enumerate(rows, first[shard.lang]):
            if number in pages:
                pages[number] |= {"url": row["url"], "text": row["text"][:_SHOWN]}
        first[shard.lang] += shard.rows
    return news


def format_fit(fit: Mapping[str, Any]) -> str:
    """Format the result of `fit_thresholds` as a table, one language per line."""
    head = f"{'':8}{'documents':>10}{'dropped':>10}{'fitted':>9}  by reason, with its own limits"
    lines = [f"{head}; * keeps the limits for all"]
    for lang, row in fit["languages"].items():
        before, after = row["before"]["dropped"], row["after"]["dropped"]
        reasons = ", ".join(f"{name} {n:.1%}" for name, n in row["after"]["by_reason"].items())
        name = lang if row["own_limits"] else f"{lang} *"
        lines.append(f"{name:8}{row['documents']:>10,}{before:>10.1%}{after:>9.1%}  {reasons}")
    changes = " ".join(f"--set quality.{name}={path}" for name, path in fit["changes"].items())
    return "\n".join([*lines, f"build with them: {changes}" if changes else "nothing is fitted"])
