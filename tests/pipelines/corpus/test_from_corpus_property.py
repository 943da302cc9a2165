"""Whatever setting a corpus is built with again gives what a build from the crawl gives."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import crawl_files as crawl
import pytest
from corpus_builds import build
from trees import data_bytes

from mswitch.pipelines.config_checks import constraints
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.from_corpus import open_source
from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import Page
from mswitch.pipelines.samples.gflanguages import write_sample

LANGUAGES = ("en", "de", "fr", "pl", "ru", "ja", "th", "hi")
SHORT = {"min_lines": 1, "min_long_line_characters": 60}
#: Settings of a first corpus: some rules drop pages in it, and others do not.
CORPORA = {
    "mc4": CorpusConfig(**SHORT, language_threshold=0.9),
    "scoped": CorpusConfig(**SHORT, dedup_scope="language", languages=LANGUAGES, keep_und=True),
    "modern": CorpusConfig(profile="modern", **SHORT, set=("quality.max_digit_share=0.01",)),
    "measured": CorpusConfig(
        profile="modern",
        **SHORT,
        set=("quality.drop=false", "personal_data.mask_personal_data=false"),
    ),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Articles of the Declaration of Human Rights, no two alike: no twin waits for a place."""
    work = tmp_path_factory.mktemp("real")
    write_sample(work / "sample")
    records, seen = [], set()
    for file in sorted((work / "sample" / "wet").iterdir()):
        for page in crawl.read(file):
            if isinstance(page, Page) and seen.isdisjoint(lines := page.text.split("\n")):
                seen |= {*lines}
                number = len(records)
                mail = (
                    f"\n{lines[0][:40]} a{number}@example.org {number}" if number % 3 == 0 else ""
                )
                records.append(crawl.record(page.text + mail, f"http://{number}.example/"))
    return crawl.write(work / "real.warc.wet.gz", records[::4])


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory, real: Path) -> dict[str, list[Any]]:
    """Values of settings that are files."""
    work = tmp_path_factory.mktemp("lists")
    texts = [page.text for page in crawl.read(real) if isinstance(page, Page)]
    (work / "items.jsonl").write_text("".join(json.dumps({"t": text}) + "\n" for text in texts[:3]))
    (work / "hosts.txt").write_text("12.example\n")
    (work / "words.csv").write_text("lang,words\nen,the and of\nde,der die und\n")
    (work / "limits.csv").write_text(
        "lang,column,least,most\nen,words,60,\nde,digit_share,,0.001\n"
    )
    return {
        "evaluation_sets": [str(work / "items.jsonl")],
        "blocklists": [str(work / "hosts.txt")],
        "stop_words": [str(work / "words.csv")],
        "thresholds": [str(work / "limits.csv")],
        "languages": ["en,ru,ja"],
    }


def each_change(config: CorpusConfig, lists: dict[str, list[Any]]) -> Iterator[str]:
    """Other values for every setting of every rule, within its bounds."""
    for step in config.load().steps:
        if not isinstance(step, Rule) or not dataclasses.is_dataclass(step):
            continue
        bounds, hints = constraints(type(step)), get_type_hints(type(step), include_extras=True)
        for field in dataclasses.fields(step):
            value, name = getattr(step, field.name), f"{step.name}.{field.name}"
            values = list(lists.get(field.name, []))
            if isinstance(value, bool):
                values = [str(not value).lower()]
            elif isinstance(value, int | float):
                values = [type(value)(value * by) for by in (0.5, 0.9, 1.1, 2)] + [0, 1]
            elif isinstance(value, tuple) and value and isinstance(value[0], float):
                values = [",".join(str(part * by) for part in value) for by in (0.5, 2)]
            elif get_origin(hints[field.name]) is Literal:
                values = [other for other in get_args(hints[field.name]) if other != value]
            assert field.name in bounds
            yield from (f"{name}={other}" for other in values if field.repr)


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize(
    "examples", [2, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])]
)
def test_every_setting_that_is_allowed_gives_the_corpus_of_the_crawl(
    tmp_path, real, lists, name, examples
):
    first, corpus = CORPORA[name], tmp_path / "corpus"
    build([real], corpus, first)
    allowed = []
    for change in each_change(first, lists):
        try:
            config = dataclasses.replace(first, set=(*first.set, change))
            recipe = config.load()
            if open_source(corpus, config.settings(recipe), recipe)[1]:
                allowed.append(config)
        except UserError:
            pass
    changed = {config.set[-1].partition(".")[0] for config in allowed}
    assert changed >= {"badwords", "blocklist" if first.profile == "modern" else "language"}
    for number, config in enumerate(random.Random(0).sample(allowed, min(examples, len(allowed)))):
        again, whole = (tmp_path / f"{kind}-{number}" for kind in ("again", "whole"))
        results = []
        for out, inputs, source in ((again, [], corpus), (whole, [real], "")):
            try:
                build(inputs, out, config, source_corpus=source)
                results.append({n: d for n, d in data_bytes(out).items() if n.startswith("data/")})
            except UserError as error:
                if "no document survived" not in str(error):
                    raise
                results.append({})
        assert results[0] == results[1], config.set[-1]
