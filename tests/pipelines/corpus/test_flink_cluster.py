"""Builds on a real Flink cluster: two task managers and a pool of Python workers.

Not part of `make test`: `make test-flink` fetches what it needs and runs it.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT, SHOUTING, english, modern_settings, stages
from local_flink import LocalFlinkCluster
from trees import data_bytes

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.samples import gflanguages

pytestmark = pytest.mark.flink

UNITS = 24
PAGES_PER_UNIT = 300


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "crawl"
    gflanguages.write_sample(out)
    return out


def phase(job: dict) -> str:
    return job["name"].removeprefix("mswitch-corpus-")


def restarted(cluster: LocalFlinkCluster) -> set[str]:
    """The phases of which Flink restarted tasks."""
    return {
        phase(job)
        for job in cluster.rest("jobs/overview")["jobs"]
        if cluster.rest(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]
    }


def task_managers(cluster: LocalFlinkCluster) -> dict[str, set[str]]:
    """The task managers that ran each phase."""
    used: dict[str, set[str]] = {}
    for job in cluster.rest("jobs/overview")["jobs"]:
        for vertex in cluster.rest(f"jobs/{job['jid']}")["vertices"]:
            path = f"jobs/{job['jid']}/vertices/{vertex['id']}/taskmanagers"
            names = {entry["taskmanager-id"] for entry in cluster.rest(path)["taskmanagers"]}
            used.setdefault(phase(job), set()).update(names)
    return used


def test_a_cluster_gives_the_local_runners_bytes(tmp_path, sample, cluster):
    config = ["--min-lines", "1", "--min-long-line-characters", "1", "--language-threshold", "0.7",
              "--language-min-bytes", "0", "--validation-per-mille", "200"]  # fmt: skip

    def build(name: str, *options: str) -> dict[str, bytes]:
        out = tmp_path / name
        inputs = ["--input", f"{sample}/wet/*", f"{sample}/warc/*"]
        command = ["corpus", "build", *inputs, "--out", str(out), *config, *options]
        subprocess.run([sys.executable, "-m", "mswitch.flows.cli.main", *command], check=True)
        return data_bytes(out)

    local = build("local")
    flink = build("flink", "--runner", "flink", "--", *cluster.beam_options)
    assert len([name for name in local if name.startswith("data/")]) > 100
    assert flink == local
    used = task_managers(cluster)
    assert {"ingest", "finish", "shards"} <= used.keys()
    assert {len(names) for names in used.values()} == {2}
    assert restarted(cluster) == set()


def built_alike(work: Path, cluster: LocalFlinkCluster, by_unit, config) -> dict[str, dict]:
    """Build here and on the cluster, to the same bytes; give what each stage dropped."""
    inputs = list(map(str, crawl.write_all(work / "in", by_unit)))
    build_corpus(inputs, work / "local", config)
    options = {"runner": "flink", "beam_options": cluster.beam_options}
    build_corpus(inputs, work / "flink", config, **options)
    assert data_bytes(work / "flink") == data_bytes(work / "local")
    return stages(work / "flink")


def test_profile_modern_on_a_cluster(tmp_path, cluster):
    """Near-duplicates: matches go to languages, sizes of clusters to files."""
    by_unit = [
        [
            crawl.record(f"{english(page, 40)} {unit}.", f"http://{unit}.example/{page}")
            for page in range(unit, unit + 6)
        ]
        for unit in range(4)
    ]
    dropped = built_alike(tmp_path, cluster, by_unit, modern_settings())
    assert dropped["near_dedup"] == {"near_duplicate": 4 * 6 - 9}


def test_a_users_recipe_on_a_cluster(tmp_path, cluster):
    """Its text travels with the job: workers do not see the file."""
    texts = [crawl.prose(crawl.GERMAN, page) for page in range(6)]
    records = [
        crawl.record(text.upper() if page == 5 else text, f"http://de.example/{page}")
        for page, text in enumerate(texts)
    ]
    (tmp_path / "recipe.py").write_text(SHOUTING)
    config = CorpusConfig(recipe=str(tmp_path / "recipe.py"))
    dropped = built_alike(tmp_path, cluster, [records[::2], records[1::2]], config)
    assert dropped["shouting"] == {"shouting": 1}


def test_task_managers_killed_on_the_way_change_nothing(tmp_path, cluster):
    # One page in three is in the next file too: both deduplications have work.
    by_unit = [
        [
            crawl.record(
                crawl.prose(crawl.GERMAN, 1000 * (unit + page % 3 // 2) + page, 50),
                f"http://de.example/{unit + page % 3 // 2}/{page}",
            )
            for page in range(PAGES_PER_UNIT)
        ]
        for unit in range(UNITS)
    ]
    inputs = list(map(str, crawl.write_all(tmp_path / "in", by_unit)))
    build_corpus(inputs, tmp_path / "local", LENIENT)
    out = tmp_path / "flink"
    options = {"runner": "flink", "beam_options": cluster.beam_options}
    build = threading.Thread(target=build_corpus, args=(inputs, out, LENIENT), kwargs=options)
    build.start()

    def written(names: str) -> int:
        return len(list(out.parent.glob(f".flink.partial-*/work/{names}")))

    # While pages are written, and while keys are exchanged.
    for victim, names in enumerate(("pages/*.json", "url_keys/*.json")):
        while not written(names):
            assert build.is_alive()
            time.sleep(0.02)
        cluster.task_managers[victim].kill()
        assert written(names) < UNITS
        cluster.start_task_manager()
    build.join()
    assert data_bytes(out) == data_bytes(tmp_path / "local")
    assert restarted(cluster) == {"ingest", "finish"}


def test_thousands_of_tiny_files(tmp_path, cluster):
    """As many files as a dump has segments, each with next to nothing in it, in few groups."""
    count = 9000
    (tmp_path / "in").mkdir()
    for file in range(count):
        # Every third page is in the next file too.
        lines = [
            json.dumps({"url": f"http://{page}.example", "text": crawl.prose(crawl.GERMAN, page)})
            for page in (file, file + file % 3 // 2)
        ]
        (tmp_path / "in" / f"{file:05d}.jsonl").write_text("\n".join(lines))
    inputs, out = [f"{tmp_path}/in/*"], tmp_path / "flink"
    options = {"runner": "flink", "beam_options": cluster.beam_options}
    build_corpus(inputs, out, LENIENT, **options)
    build_corpus(inputs, tmp_path / "local", LENIENT)
    assert data_bytes(out) == data_bytes(tmp_path / "local")
    [read, *_] = load_stats(out)["stages"]
    assert read["in"] == 2 * count
