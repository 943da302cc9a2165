"""Surveys a finished corpus: sites, scripts and language scores, from the shards.

Shards are read by column, a batch at a time. Memory does not grow with the corpus: sites are
counted as heavy hitters, and scripts in a sample of the text. Documents are sorted by a hash of
their URL, so the beginning of a shard is a random sample.
"""

import collections
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import name_addition
from mswitch.pipelines.corpus.reader import open_shard
from mswitch.pipelines.corpus.rules.text_script import count_scripts
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.progress import Progress

SCORE_BINS = 100
SITES_SHOWN = 20
#: If a language has more distinct sites than this, counts of its sites are not exact.
SITE_CAPACITY = 1 << 16
#: Maximum bytes of text per language in which letters are counted.
SCRIPT_SAMPLE_BYTES = 4 << 20
NO_SITE = "(none)"

#: Arrow creates these functions at import, so type checkers cannot see them.
_compute: Any = pyarrow.compute

_BATCH_ROWS = 1 << 16
_TEXT_BATCH_ROWS = 256

# As in browsers, the authority ends at a slash or backslash, and the host begins after its last @.
# RE2 takes linear time for any URL.
_HOST = (
    r"^[a-zA-Z][a-zA-Z0-9+.-]*:[/\\]{2,}(?:[^/?#\\]*@)?(?P<host>\[[^\]/?#\\]*\]|[^/?#\\:@\[\]]*)"
)
_SITE = r"^(?:[\pL\pM\pN_-]+(?:\.[\pL\pM\pN_-]+)*|\[[0-9a-f:.]+\])$"
_LONGEST_SITE = 253

_REASON = re.compile(r"[a-z0-9_]+")


class HeavyHitters:
    """Counts of the most frequent names, in bounded memory (Misra-Gries).

    Attributes:
        error: a count is too low by at most this number, and an absent name occurred at most this
            often. It is zero if there were never more than `capacity` names.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.error = 0
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add `counts`: the number of further occurrences of each name."""
        self._counts.update(counts)
        if len(self._counts) > self.capacity:
            # Agarwal et al. 2012, Mergeable summaries.
            excess = sorted(self._counts.values(), reverse=True)[self.capacity]
            self.error += excess
            self._counts = collections.Counter(
                {name: count - excess for name, count in self._counts.items() if count > excess}
            )

    def merge(self, other: "HeavyHitters") -> None:
        """Add the counts and the error of `other`."""
        self.error += other.error
        self.add(other._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def top(self, count: int) -> list[tuple[str, int]]:
        """Return the most frequent names with their counts; ties are sorted by name."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:count]


def extract_hosts(urls: pa.Array) -> pa.Array:
    """Return the host names of URLs, in lower case and without `www.`.

    URLs come from the crawl and may be anything; a URL without a host name gets `NO_SITE`.
    """
    names = _compute.utf8_lower(_compute.struct_field(_compute.extract_regex(urls, _HOST), "host"))
    names = _compute.replace_substring_regex(names, r"^www\.|\.$", "")
    good = _compute.and_(
        _compute.match_substring_regex(names, _SITE),
        _compute.less_equal(_compute.utf8_length(names), _LONGEST_SITE),
    )
    return _compute.if_else(_compute.fill_null(good, False), names, NO_SITE)


def count_sites(urls: pa.Array) -> dict[str, int]:
    """Count the host names of URLs."""
    counted = _compute.value_counts(extract_hosts(urls))
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}


def survey(corpus: str | Path) -> dict[str, Any]:
    """Read the shards of a corpus once and return figures as JSON.

    Returns:
        `languages.<lang>`: documents, scores (a histogram in `SCORE_BINS` equal bins from 0 to 1),
        sites (the most frequent, with counts), distinct_sites, sites_error (see `HeavyHitters`),
        scripts (letters by ISO 15924 code, counted in sampled_documents), sampled_documents.
        `sites`, `distinct_sites`, `sites_error`: the same over all languages.
    """
    shards: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for shard in read_manifest(corpus, "corpus")["shards"]:
        shards[shard["lang"]].append(shard)
    rows = sum(shard["rows"] for entries in shards.values() for shard in entries)
    progress = Progress("corpus", "survey", rows, "documents")
    everything = HeavyHitters(SITE_CAPACITY)
    surveyed = {}
    for lang, entries in sorted(shards.items()):
        paths = [storage.join(corpus, shard["path"]) for shard in entries]
        figures, hosts = _survey_language(paths, progress)
        everything.merge(hosts)
        surveyed[lang] = {**figures, **_describe_sites(hosts)}
    return {"languages": surveyed, **_describe_sites(everything)}


def _describe_sites(hosts: HeavyHitters) -> dict[str, Any]:
    return {
        "sites": hosts.top(SITES_SHOWN),
        "distinct_sites": len(hosts),
        "sites_error": hosts.error,
    }


def _survey_language(paths: list[str], progress: Progress) -> tuple[dict[str, Any], HeavyHitters]:
    hosts = HeavyHitters(SITE_CAPACITY)
    scores = np.zeros(SCORE_BINS, np.int64)
    scripts: collections.Counter[str] = collections.Counter()
    documents = sampled = sampled_bytes = 0
    for path in paths:
        with open_shard(path) as shard:
            for batch in shard.iter_batches(_BATCH_ROWS, columns=["url", "lang_score"]):
                hosts.add(count_sites(batch["url"]))
                values = batch["lang_score"].to_numpy(zero_copy_only=False)
                scores += np.histogram(values, SCORE_BINS, (0, 1))[0]
                documents += len(batch)
                progress.add(len(batch))
            for text in _read_texts(shard) if sampled_bytes < SCRIPT_SAMPLE_BYTES else ():
                scripts.update(count_scripts(text))
                sampled += 1
                sampled_bytes += len(text.encode())
                if sampled_bytes >= SCRIPT_SAMPLE_BYTES:
                    break
    figures = {
        "documents": documents,
        "scores": scores.tolist(),
        "scripts": dict(sorted(scripts.items(), key=lambda item: (-item[1], item[0]))),
        "sampled_documents": sampled,
    }
    return figures, hosts


def _read_texts(shard: pq.ParquetFile) -> Iterator[str]:
    for batch in shard.iter_batches(_TEXT_BATCH_ROWS, columns=["text"]):
        yield from batch["text"].to_pylist()


def read_rejected_samples(
    corpus: str | Path, reasons: list[str], most: int
) -> dict[str, list[dict]]:
    """Return up to `most` samples of each reason's dropped pages, if the corpus has some.

    Samples of the newest added crawl come first.
    """
    additions = len(read_manifest(corpus, "corpus").get("additions", []))
    whole = storage.join(corpus, "rejected")
    added = [storage.join(whole, name_addition(n)) for n in range(additions, 0, -1)]
    samples: dict[str, list[dict]] = {}
    for directory in [*added, whole]:
        there = storage.list_names(directory)
        for reason in reasons:
            samples_so_far = samples.get(reason, [])
            name = f"{reason}.jsonl"
            if _REASON.fullmatch(reason) and name in there and len(samples_so_far) < most:
                lines = storage.read_bytes(storage.join(directory, name)).split(b"\n")
                rows = [json.loads(line) for line in lines[: most - len(samples_so_far)] if line]
                samples[reason] = [*samples_so_far, *rows]
    return samples
