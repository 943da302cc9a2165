"""Corpus and examples on Dataflow, as far as that goes without Google: `make test-dataflow`.

The command submits its jobs to a peer on loopback, which runs what was staged (peer.py). About two
minutes, most of them waiting: Beam's client looks at a job every five seconds.
"""

import os
import re
import subprocess
from collections import Counter

import corpus_files
import pyarrow.parquet as pq
import pytest
from dataflow_builds import IMAGE, IN_IMAGE, PHASES, RULES, beam_options, phases_of, refusal
from processes import run_mswitch
from trees import data_bytes, send

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

pytestmark = pytest.mark.dataflow

#: What is said of a worker that was killed.
KILLED = r"failed \(.*the worker ended with exit code -9.*/dataflow/jobs/europe-west4/"
#: Ten lines of a user's own.
RECIPE = """
from mswitch.pipelines.corpus.recipes import IdentifyLanguage, LineDedup, Recipe, Rule, UrlDedup

class Umlauts(Rule):
    name = "umlauts"
    columns = {"umlauts": "int32"}

    def reason(self, page):
        page.columns["umlauts"] = sum(map(page.text.count, "äöüß"))
        return None if page.columns["umlauts"] else "no_umlaut"

GERMAN = Recipe("german", [IdentifyLanguage(), Umlauts()], [UrlDedup(), LineDedup("language")])
"""


def test_workers_run_from_the_staged_package(build, peer, bucket, local_data):
    """No image, `--setup_file ./pyproject.toml`, in a project that is locked down."""
    before = len(peer.jobs)
    account, network, key = "m@p.iam.gserviceaccount.com", "regions/r/subnetworks/s", "projects/k"
    done = build(
        "--setup_file=./pyproject.toml",
        f"--service_account_email={account}",
        f"--subnetwork={network}",
        "--no_use_public_ips",
        f"--dataflow_kms_key={key}",
        "--labels=team=languages",
    )
    assert done.returncode == 0, done.stderr
    assert data_bytes(f"{bucket}/corpus/data") == local_data
    assert storage.match(f"{bucket}/corpus/work/**") == []
    jobs = peer.jobs[before:]
    assert phases_of(jobs) == [*PHASES]
    for job in jobs:
        assert job.request_bytes < 100_000
        modules = job.result["modules"]
        assert "mswitch.pipelines.corpus.work_directory" in modules
        assert "mswitch.flows.cli.main" not in modules
        assert all(path.startswith(str(job.directory / "packages")) for path in modules.values())
        environment = job.spec["environment"]
        assert environment["serviceAccountEmail"] == account
        assert environment["serviceKmsKeyName"] == key
        for pool in environment["workerPools"]:
            assert pool["subnetwork"] == network
            assert pool["ipConfiguration"] == 2  # WORKER_IP_PRIVATE
        assert job.spec["labels"]["team"] == "languages"
        assert "mswitch-build" in job.spec["labels"]
    # What people watched is what there is.
    counted: Counter[str] = Counter()
    for job in jobs:
        for counter in job.result["counters"]:
            counted[counter["name"]] += counter["value"]
    stats = load_stats(f"{bucket}/corpus")
    documents = {
        lang: sum(split["documents"] for split in splits.values())
        for lang, splits in stats["languages"].items()
    }
    dropped = Counter(
        {reason: n for row in stats["stages"] for reason, n in row["dropped"].items()}
    )
    assert counted["pages_read"] == stats["stages"][0]["out"]
    assert counted["documents"] == sum(documents.values()) > 0
    assert {lang: counted[f"documents_{lang}"] for lang in documents} == documents
    assert {name: n for name, n in counted.items() if name.startswith("dropped_")} == {
        f"dropped_{reason}": n for reason, n in dropped.items()
    }
    # What it cost is said, by phase: the first two shuffle no text.
    said = re.findall(
        r"mswitch-corpus-(\w+)-\w+: (\S+) vcpu hours, .* (\S+) shuffle gb; ", done.stderr
    )
    assert [phase for phase, *_ in said] == [*PHASES]
    assert all(float(hours) > 0 for _, hours, _ in said)
    assert float(said[0][2]) < float(said[2][2]) > float(said[1][2])
    # 24 or 40 bytes a candidate, and a bit back.
    shuffled = stats["shuffled_bytes"]
    assert shuffled == {"url_dedup": 27 * 40 + 4, "line_dedup": 81 * 24 + 11}


def test_a_killed_worker_fails_the_job_and_a_rerun_continues(build, peer, bucket, local_data):
    peer.worker_environment["-ingest-"] = {"MSWITCH_FAULT": "corpus.after_ingest"}
    assert re.search(f"-ingest-.*{KILLED}", refusal(build(IN_IMAGE)))
    ingested = storage.match(f"{bucket}/corpus/work/pages/*.json")
    assert len(ingested) == 1
    assert not storage.exists(f"{bucket}/corpus/_COMPLETED")
    before = len(peer.jobs)
    done = build(IN_IMAGE)
    assert done.returncode == 0, done.stderr
    assert data_bytes(f"{bucket}/corpus/data") == local_data
    for job in peer.jobs[before:]:
        [pool] = job.spec["environment"]["workerPools"]
        assert pool["workerHarnessContainerImage"] == IMAGE
        [environment] = job.pipeline.components.environments.values()
        assert IMAGE.encode() in environment.payload
        assert not (job.directory / "staged" / "workflow.tar.gz").exists()


def test_a_build_stops_at_its_limit_and_continues_with_a_higher_one(
    build, peer, bucket, local_data, waiting, monkeypatch
):
    """The finish job becomes dear while it waits for machines."""
    monkeypatch.setitem(peer.further_secs, "-finish-", 3.6e6)
    waiting("-finish-")
    before, rules = len(peer.jobs), ("--no-keep-fingerprints", "--max-cost-usd")
    line = refusal(build(IN_IMAGE, rules=(*rules, "50")))
    spent = re.search(r"saved and stopped: ([\d.]+) USD are metered, and 50\.00 is the limit", line)
    # A thousand hours of one vCPU with 4 GB, as examples of prices have it.
    assert spent is not None
    assert float(spent[1]) == pytest.approx(
        1000 * (0.056 + 4 * 0.003557 + 6.25 * 0.000054), abs=0.1
    )
    assert [job.state for job in peer.jobs[before:]] == ["JOB_STATE_DONE", "JOB_STATE_CANCELLED"]
    assert len(storage.match(f"{bucket}/corpus/work/pages/*.json")) == 3
    peer.further_secs.clear()
    peer.machines["-finish-"].set()
    # The same command knows what was spent, and submits nothing.
    assert "saved and stopped" in refusal(build(IN_IMAGE, rules=(*rules, "50")))
    assert len(peer.jobs) == before + 2
    done = build(IN_IMAGE, rules=(*rules, "5000"))
    assert done.returncode == 0, done.stderr
    assert data_bytes(f"{bucket}/corpus/data") == local_data
    assert phases_of(peer.jobs[before:]) == ["ingest", "finish", "finish", "shards"]


def test_a_limit_needs_meters_and_a_build_without_one_does_not(
    build, peer, bucket, local_data, monkeypatch
):
    monkeypatch.setattr(peer, "refuses_meters", True)
    rules = ("--no-keep-fingerprints", "--max-cost-usd=5")
    line = refusal(build(IN_IMAGE, rules=rules))
    assert re.search("--max-cost-usd: cannot read the meters of https.*metrics.get denied", line)
    peer.jobs[-1].cancel()
    done = build(IN_IMAGE)
    assert done.returncode == 0, done.stderr
    assert "cannot read the meters of" in done.stderr
    assert data_bytes(f"{bucket}/corpus/data") == local_data


def test_a_further_crawl_is_added(build, peer, bucket, crawl_files, config, tmp_path):
    """The monthly job, with all that a build leaves by default; lines of `copy` are there."""
    local, out = tmp_path / "grown", f"{bucket}/corpus"
    build_corpus([str(crawl_files[0])], local, config)
    build_corpus([str(path) for path in crawl_files[1:]], local, config, append=True)
    build_corpus([f"{bucket}/crawl/0.*"], out, config)
    before = len(peer.jobs)
    done = build(IN_IMAGE, files="[12].*", rules=("--append",))
    assert done.returncode == 0, done.stderr
    assert phases_of(peer.jobs[before:]) == [*PHASES]
    assert any("-added-001-" in name for name in data_bytes(f"{out}/data"))
    for kind in ("data", "fingerprints"):
        assert data_bytes(f"{out}/{kind}") == data_bytes(local / kind)


def test_pages_are_removed_by_a_job(peer, bucket, crawl_files, config, tmp_path):
    local, out, urls = tmp_path / "local", f"{bucket}/corpus", tmp_path / "urls.txt"
    for place in (local, out):
        build_corpus([str(path) for path in crawl_files], place, config)
    with storage.fetch(
        storage.join(out, read_manifest(out, "corpus")["shards"][0]["path"])
    ) as path:
        urls.write_text("\n".join(pq.read_table(path)["url"].to_pylist()[:2]))
    remove_pages(local, urls=str(urls))
    before = len(peer.jobs)
    words = ["corpus", "remove", out, f"--urls={urls}", "--basis=other", "--runner=dataflow"]
    done = run_mswitch(*words, "--", *beam_options(peer, bucket, IN_IMAGE))
    assert done.returncode == 0, done.stderr
    [job] = peer.jobs[before:]
    assert job.spec["name"].startswith("mswitch-corpus-removal-")
    assert data_bytes(f"{out}/data") == data_bytes(local / "data")
    assert verify_corpus(out)["problems"] == []


def test_the_template_starts_a_job_that_conducts_the_others(
    build, peer, bucket, local_data, python, tmp_path
):
    """As Dataflow's launcher does: in the image, by `--name=value`, ending at once."""
    before = len(peer.jobs)
    rules = [rule.lstrip("-").replace("-", "_") for rule in (*RULES, "--keep-fingerprints=false")]
    command = [
        python, "-P", peer.images[IMAGE] / "mswitch" / "pipelines" / "dataflow" / "launch.py",
        f"--input={bucket}/crawl/0*,{bucket}/crawl/1*,{bucket}/crawl/2*", f"--out={bucket}/corpus",
        f"--set={';'.join(rules)}",
        "--runner=DataflowRunner", "--job_name=build-1", "--project=test-project",
        "--region=europe-west4", f"--temp_location={bucket}/tmp", "--max_num_workers=50",
        IN_IMAGE, f"--dataflow_endpoint={peer.address}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(peer.images[IMAGE])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    conductor = peer.jobs[before]
    assert conductor.spec["name"] == "build-1"
    assert not conductor.finished.is_set()
    assert conductor.finished.wait(240)
    assert conductor.error == ""
    assert data_bytes(f"{bucket}/corpus/data") == local_data
    jobs = peer.jobs[before + 1 :]
    assert phases_of(jobs) == [*PHASES]
    [pool] = conductor.spec["environment"]["workerPools"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 1
    for job in jobs:
        [pool] = job.spec["environment"]["workerPools"]
        assert pool["autoscalingSettings"]["maxNumWorkers"] == 50
        assert pool["workerHarnessContainerImage"] == IMAGE


def test_a_users_recipe(build, peer, bucket, crawl_files, tmp_path):
    """Its text travels with the job: workers do not see the file."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    local = tmp_path / "local"
    recipe = CorpusConfig(recipe=str(tmp_path / "recipe.py"), shard_bytes=2000, bucket_bytes=500)
    build_corpus([str(path) for path in crawl_files], local, recipe)
    rules = (f"--recipe={tmp_path / 'recipe.py'}", "--shard-bytes=2000", "--bucket-bytes=500")
    done = build(IN_IMAGE, settings=rules)
    assert done.returncode == 0, done.stderr
    [stage] = [
        stage for stage in load_stats(f"{bucket}/corpus")["stages"] if stage["name"] == "umlauts"
    ]
    assert stage["out"] > 0
    assert stage["dropped"] == {"no_umlaut": 9}
    assert data_bytes(f"{bucket}/corpus/data") == data_bytes(local / "data")


def test_examples_are_made_by_a_job_and_go_on_where_it_died(peer, bucket, tmp_path):
    corpus_files.write_corpus(tmp_path / "corpus", corpus_files.small_texts(), shards=2)
    vocabulary = tmp_path / "vocabulary"
    settings = VocabularyConfig(size=1000, character_coverage=0.999)
    train_vocabulary(tmp_path / "corpus", vocabulary, settings)
    local = tmp_path / "examples"
    build_examples(tmp_path / "corpus", vocabulary, local, ExamplesConfig(inputs_length=32))
    for name in ("corpus", "vocabulary"):
        send(tmp_path / name, f"{bucket}/{name}")
    command = [
        *("examples", "build", "--runner=dataflow", "--inputs-length=32"),
        *(f"--corpus={bucket}/corpus", f"--vocab={bucket}/vocabulary", f"--out={bucket}/examples"),
        *("--", *beam_options(peer, bucket, IN_IMAGE)),
    ]
    peer.worker_environment["mswitch-examples"] = {"MSWITCH_FAULT": "examples.after_shards"}
    assert re.search(f"mswitch-examples-.*{KILLED}", refusal(run_mswitch(*command)))
    done = run_mswitch(*command)
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 of \d+ shards already exist", done.stderr)
    assert data_bytes(f"{bucket}/examples") == data_bytes(local)


def test_a_job_that_cannot_start_says_why(build, bucket):
    failed = build("--sdk_container_image=example.test/absent:1")
    assert failed.returncode == 2
    assert "the image example.test/absent:1 cannot be pulled" in failed.stderr
    assert not storage.exists(f"{bucket}/corpus/manifest.json")
