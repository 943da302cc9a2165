"""Corpora that grow by crawls, on a real Prefect server, from dumps on this machine."""

import json

import crawl_files as crawl
import pytest
from corpus_builds import documents
from file_server import FileServer
from operators_server import ENDS, Served, served

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
        validation_per_mille=0,
        min_validation_documents=0,
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


def test_a_corpus_of_no_flow_is_not_added_to(server):
    ended = server.wait(server.start("append-crawl-monthly", name="none"), ENDS)
    assert ended.state_name == "Failed"
    assert ended.state.message.startswith(f"{server.storage}/corpora/none does not exist")
