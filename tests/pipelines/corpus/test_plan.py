"""`corpus plan` against what a build then took."""

import dataclasses
import json
import re
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import FRAME, LENIENT

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus import plan
from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.plan import plan_build
from mswitch.pipelines.corpus.recipes import MC4
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Files of one size whose pages have nothing in common."""
    crawls = [
        crawl.pages(crawl.GERMAN, range(first, first + 40), "de.example", 8)
        for first in (100, 200, 300)
    ]
    return list(map(str, crawl.write_all(tmp_path, crawls)))


def test_a_plan_foresees_the_build(files, tmp_path):
    plan = plan_build(files, LENIENT, workers=2, mb_per_second=0.001)
    build_corpus(files, tmp_path / "corpus", LENIENT)
    stats = load_stats(tmp_path / "corpus")
    estimated = plan["estimated"]
    assert plan["files"] == 3
    assert plan["bytes_in"] == sum(Path(path).stat().st_size for path in files)
    assert estimated["pages"] == pytest.approx(120, rel=0.05)
    for name, size in stats["shuffled_bytes"].items():
        assert estimated["shuffle_bytes"][name] == pytest.approx(size, rel=0.05)
    german = {
        name: sum(split[name] for split in stats["languages"]["de"].values())
        for name in ("documents", "bytes")
    }
    assert estimated["text_bytes"] == pytest.approx(german["bytes"], rel=0.05)
    assert estimated["survives"] == {"de": pytest.approx(german, rel=0.05)}
    secs = estimated["text_bytes"] / 1e6 / 0.001
    assert estimated["cpu_hours"] == pytest.approx(secs / 3600, abs=1e-4)
    assert estimated["wall_hours"] == pytest.approx(secs / 7200, abs=1e-4)
    dataflow = estimated["dataflow"]
    assert list(dataflow) == ["ingest", "finish", "shards", "all"]
    # Workers are billed for a minute before they work: two, and one for the only shard.
    hours = (secs / 0.9 + (2 + 2 + 1) * 60) / 3600
    assert dataflow["all"]["vcpu_hours"][0] == pytest.approx(hours, rel=0.001)


def test_the_rate_is_that_of_the_recipe(files, recipe):
    rule = """def reason(self, page):
        stop = time.process_time() + 0.01
        while time.process_time() < stop:
            pass
        return "odd" if page.url[-1] in "13579" else None"""
    text = FRAME.replace('    columns = {{"mine": "int32"}}\n', "")
    config = CorpusConfig(recipe=recipe("import time" + text.format(rule=rule, options="")))
    planned = plan_build(files, config)
    estimated, secs = planned["estimated"], planned["estimated"]["text_bytes"] / 1e6
    assert 120 * 0.01 <= secs / planned["mb_per_second"] < 120 * 0.01 * 2
    assert estimated["dropped"] == {"odd": pytest.approx(60, rel=0.05)}
    assert estimated["survives"]["de"]["documents"] == pytest.approx(60, rel=0.05)


def test_more_workers_than_files_do_not_help(files):
    hours = [
        plan_build(files, LENIENT, workers=n, mb_per_second=1e-4)["estimated"]["wall_hours"]
        for n in (1, 3, 300)
    ]
    assert hours[0] > hours[1] == hours[2]


def test_deduplications_alone_are_cut_for_workers_to_share():
    total = {"pages": 1 << 20, "lines": 5 << 20, "bytes": {}}
    total |= {"moved": dict.fromkeys(("url_dedup", "line_dedup"), 0)}
    total |= {"keys": {"urls": 1 << 20, "lines": 5 << 20}}
    _, buckets = plan._estimate_shuffles(total, CorpusConfig(), MC4)
    assert buckets == {"url_dedup": 8, "kept_urls": 1, "line_dedup": 8, "kept_lines": 2}


def test_buckets_and_shards_follow_from_the_settings(files):
    small = dataclasses.replace(LENIENT, bucket_bytes=1000, shard_bytes=10_000)
    estimated = plan_build(files, small)["estimated"]
    owners, buckets = (estimated[of]["line_dedup"] for of in ("shuffle_bytes", "buckets"))
    assert buckets / 2 < owners / 1000 <= buckets
    assert estimated["shards_at_least"] == -(-estimated["shuffle_bytes"]["text"] // 10_000)
    lax = (
        "quality.min_words=1",
        "quality.max_top_ngram_shares=1,1,1",
        "quality.max_duplicate_ngram_shares=1,1,1,1,1,1",
    )
    modern = dataclasses.replace(small, profile="modern", language_threshold=None, set=lax)
    modern = plan_build(files, modern)["estimated"]
    assert "line_dedup" not in modern["shuffle_bytes"]
    assert modern["shuffle_bytes"]["near_dedup"] > 0


def test_input_without_pages_is_refused(tmp_path):
    path = crawl.write(tmp_path / "a.warc.gz", [crawl.warcinfo()])
    with pytest.raises(UserError, match=r"has no page that survives \(not_a_page 1\)"):
        plan_build([str(path)], CorpusConfig())


def test_the_command_prints_a_table_or_json(files, capsys):
    command = ["corpus", "plan", "--input", *files, "--workers", "4", "--min-lines", "1"]
    command += ["--min-long-line-characters", "1", "--language-threshold", "0.7"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert re.search(r"(?m)^survives: de  .* 1\d\d documents, \d+,\d+ bytes$", table)
    assert "shuffle bytes: line dedup" in table
    assert re.search(r"(?m)^dataflow: ingest  .* vcpu hours, .* batch usd, .* flexrs usd$", table)
    assert main([*command, "--json", "--mb-per-second", "7"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["mb_per_second"] == 7
