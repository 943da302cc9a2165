"""Corpora that grow by crawls, on a real Prefect server, from dumps on this machine."""

import datetime
import json

import crawl_files as crawl
import pytest
from corpus_builds import documents
from file_server import FileServer
from operators_server import ENDS, Served, served
from prefect.states import Scheduled

from mswitch.flows.jobs.record import read_record
from mswitch.pipelines.outputs import read_manifest

pytestmark = [pytest.mark.server, pytest.mark.timeout(1500)]

OLD, NEW = "CC-MAIN-2024-10", "CC-MAIN-2024-18"
LIST = "/collinfo.json"


@pytest.fixture(scope="module")
def dumps():
    """Two dumps of one WET file each; the list has the older one alone at first."""
    with FileServer() as server:
        for number, dump in enumerate((OLD, NEW)):
            server.files |= crawl.dump(dump, 100 * number)
        server.files[LIST] = json.dumps([{"id": OLD}]).encode()
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory, dumps):
    directory = tmp_path_factory.mktemp("operators")
    place = f'common_crawl = "{dumps.url}"\ncommon_crawl_list = "{dumps.url}{LIST}"\n'
    with served(directory, head=place) as made:
        yield made


def sites(server: Served) -> set[str]:
    corpus = server.storage / "corpora" / "grown"
    return {url.split("/")[2] for url in documents(corpus)}


def test_the_newest_dump_is_added_once(server, dumps):
    corpus = server.storage / "corpora" / "grown"
    file = f"{dumps.url}/crawl-data/{OLD}/segments/0/wet/CC-00000.warc.wet.gz"
    server.finish(
        "corpus-sample",
        name="grown",
        inputs=[file],
        languages=["de"],
        build={"validation_per_mille": 0, "min_validation_documents": 0},
    )
    assert sites(server) == {f"{OLD}.de"}

    # The newest dump is the one it was built of.
    server.finish("append-crawl-monthly", name="grown")
    assert read_manifest(corpus, "corpus").get("additions", []) == []
    assert not (server.storage / "crawls").exists()

    # A new one is fetched and added, with the settings of the build.
    dumps.files[LIST] = json.dumps([{"id": NEW}, {"id": OLD}]).encode()
    run = server.finish("append-crawl-monthly", name="grown")
    assert sites(server) == {f"{OLD}.de", f"{NEW}.de"}
    [addition] = read_manifest(corpus, "corpus")["additions"]
    assert [NEW in one["path"] for one in addition["inputs"]] == [True]
    assert "--languages=de" in read_record(corpus).job.argv
    lines = server.lines(run.id)
    assert any("[corpus] 1 files of " in line and "on runner local" in line for line in lines)
    assert "Statistics of grown" in server.artifacts("markdown")["corpus-grown"]["data"]

    # And not twice.
    before = read_record(corpus)
    server.finish("append-crawl-monthly", name="grown")
    assert read_record(corpus) == before
    assert len(read_manifest(corpus, "corpus")["additions"]) == 1


def test_files_are_added_in_place_of_a_dump(server, dumps):
    corpus = server.storage / "corpora" / "grown"
    before = len(read_manifest(corpus, "corpus").get("additions", []))
    text = "Ein Satz mit genügend deutschen Wörtern für das Korpus von heute. " * 9
    (server.directory / "2026-03-01").mkdir()
    pages = [
        {"url": f"https://own.de/{number}", "text": f"{number} {text}{number}.\n" * 4}
        for number in range(9)
    ]
    file = server.directory / "2026-03-01" / "pages.jsonl"
    file.write_text("\n".join(map(json.dumps, pages)))
    found = server.client.read_deployment_by_name("refresh/refresh-nightly")
    then = datetime.datetime(2026, 2, 28, 23, 30, tzinfo=datetime.UTC)
    run = server.client.create_flow_run_from_deployment(
        found.id,
        parameters={
            "corpus": "grown",
            "inputs": [f"{server.directory}/{{date}}/*.jsonl"],
            "examples": "own-{date}",
            "pair": "own-{date}",
            "timezone": "Europe/Berlin",
            "examples_deployment": "none",
            "pair_deployment": "none",
        },
        state=Scheduled(scheduled_time=then),
    ).id
    assert server.wait(run, ENDS, 400).state_name == "Completed", server.log
    additions = read_manifest(corpus, "corpus")["additions"]
    assert len(additions) == before + 1
    assert additions[-1]["inputs"][0]["path"].endswith("2026-03-01/pages.jsonl")


def test_two_additions_at_once_come_one_after_the_other(server):
    corpus = server.storage / "corpora" / "grown"
    before = len(read_manifest(corpus, "corpus").get("additions", []))
    runs = []
    for number in range(2):
        file = server.directory / f"more-{number}.jsonl"
        text = f"{number} Ein Satz mit genügend deutschen Wörtern für das Korpus von heute. " * 40
        file.write_text(json.dumps({"url": f"https://more.de/{number}", "text": text}))
        runs.append(server.start("append-crawl-monthly", name="grown", inputs=[str(file)]))
    for run in runs:
        assert server.wait(run, ENDS, 400).state_name == "Completed", server.log
    assert len(read_manifest(corpus, "corpus")["additions"]) == before + 2


def test_a_stage_that_fails_is_called_by_its_present_name(server):
    run = server.start("refresh-nightly", corpus="none", dump=OLD)
    ended = server.wait(run, ENDS, 400)
    assert ended.state.message.startswith(
        f"append-crawl-monthly failed (append {OLD} to none): {server.storage}/corpora/none does"
    )


def test_a_chain_whose_vocabulary_changes_is_refused_at_once(server):
    chain = {"begin_with": "{previous}"}
    ended = server.wait(server.start("refresh-nightly", pair_parameters=chain), ENDS)
    assert "give vocabulary_file in examples_parameters" in ended.state.message


def test_a_corpus_of_no_flow_is_not_added_to(server):
    ended = server.wait(server.start("append-crawl-monthly", name="none"), ENDS)
    assert ended.state_name == "Failed"
    assert ended.state.message.startswith(f"{server.storage}/corpora/none does not exist")
