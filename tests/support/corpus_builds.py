"""Settings, recipes, texts and results of small corpus builds."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.ledger import check_accounts
from mswitch.pipelines.corpus.stats import load_stats

#: mC4's settings, but pages may be short.
LENIENT = CorpusConfig(min_lines=1, min_long_line_characters=1, language_threshold=0.7)

#: A recipe with a rule of ten lines.
SHOUTING = """
from mswitch.pipelines.corpus.recipes import (
    IdentifyLanguage, LineDedup, Paragraphs, Recipe, Rule, UrlDedup
)


class Shouting(Rule):
    name = "shouting"
    columns = {"capitals": "float32"}

    def reason(self, page):
        page.columns["capitals"] = sum(map(str.isupper, page.text)) / len(page.text)
        return "shouting" if page.columns["capitals"] > 0.3 else None


language = IdentifyLanguage(language_threshold=0.7)
CALM = Recipe("calm", [Paragraphs(1, 1), language, Shouting()], [UrlDedup(), LineDedup("language")])
"""

#: What comes before a rule in a recipe with one more rule in it.
FRAME = """
from mswitch.pipelines.corpus.recipes import IdentifyLanguage, Recipe, Rule

class Mine(Rule):
    name = "mine"
    columns = {{"mine": "int32"}}
    {rule}

MINE = Recipe("mine_too", [Mine(), IdentifyLanguage(language_threshold=0.7)], {options})
"""

NOUNS = ["house", "garden", "river", "letter", "winter", "table", "window", "market", "teacher",
         "doctor", "story", "village"]  # fmt: skip
VERBS = ["sees", "finds", "opens", "carries", "leaves", "follows", "watches", "remembers",
         "paints", "describes"]  # fmt: skip


def english(seed: int, sentences: int = 12) -> str:
    """A paragraph that no other seed has, of ordinary English words."""
    draws = random.Random(seed)
    return " ".join(
        f"The {draws.choice(NOUNS)} of the {draws.choice(NOUNS)} {draws.choice(VERBS)} a "
        f"{draws.choice(NOUNS)} and {draws.choice(VERBS)} the {draws.choice(NOUNS)} with care."
        for _ in range(sentences)
    )


def modern_settings(*changes: str) -> CorpusConfig:
    """Profile `modern` for such paragraphs, which repeat themselves more than people do."""
    quality = (
        "quality.min_words=20",
        "quality.max_top_ngram_shares=0.5,0.5,0.5",
        "quality.max_duplicate_ngram_shares=0.9,0.9,0.9,0.9,0.9,0.9",
    )
    return CorpusConfig(
        profile="modern",
        min_lines=1,
        keep_und=False,
        min_long_line_characters=100,
        set=(*quality, *changes),
    )


def build(
    inputs: Iterable[Path], out: Path, config: CorpusConfig = LENIENT, **options: Any
) -> dict[str, Any]:
    """Build a corpus; give its summary."""
    return build_corpus([str(path) for path in inputs], out, config, **options)


_CHILD = """
import pickle, sys
from mswitch.pipelines.corpus.build import build_corpus
inputs, out, config, options = pickle.load(sys.stdin.buffer)
build_corpus(inputs, out, config, **options)
"""


def build_elsewhere(
    inputs: Iterable[Path], out: str | Path, config: CorpusConfig, fault: str = "", **options: Any
) -> str:
    """Build in another process, killed at the fault point if one is given; give what it said."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=pickle.dumps((list(map(str, inputs)), str(out), config, options)),
        env={**os.environ, "MSWITCH_FAULT": fault},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == (-signal.SIGKILL if fault else 0), f"{fault}: {said}"
    return said


def build_with(
    inputs: Iterable[Path], out: Path, recipe: str, **options: Any
) -> list[dict[str, Any]]:
    """Build with a recipe's file; give the documents."""
    build(inputs, out, CorpusConfig(recipe=recipe, **options))
    return list(documents(out).values())


def documents(corpus: Path) -> dict[str, dict[str, Any]]:
    """Documents by URL, in the order of shards, which must be those of manifest and accounts."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    paths = sorted(path.relative_to(corpus) for path in corpus.glob("data/*/*"))
    assert sorted(entry["path"] for entry in manifest["shards"]) == list(map(str, paths))
    rows = pa.concat_tables(pq.read_table(corpus / path) for path in paths).to_pylist()
    check_accounts(load_stats(corpus)["stages"], len(rows))
    found = {row["url"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def stages(corpus: Path) -> dict[str, dict[str, int]]:
    """What each stage dropped, by reason."""
    return {stage["name"]: stage["dropped"] for stage in load_stats(corpus)["stages"]}
