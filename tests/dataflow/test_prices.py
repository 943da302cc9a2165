"""What a plan foresees, against what the peers of Dataflow and of Cloud Storage meter."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT
from dataflow_builds import IN_IMAGE
from gcp_storage_emulator.server import RequestHandler

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.plan import plan_build
from mswitch.pipelines.objects import upload

pytestmark = [pytest.mark.dataflow, pytest.mark.timeout(900)]

SETTINGS = ["--min-lines=1", "--min-long-line-characters=1", "--language-threshold=0.7"]


@pytest.fixture
def requests_by_class(storage_server: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count requests to the bucket in Cloud Storage's classes: A writes or lists, B reads."""
    counted: Counter[str] = Counter()

    def counting(method: str) -> Callable[[RequestHandler], None]:
        answer = getattr(RequestHandler, f"do_{method}")

        def count(handler: RequestHandler) -> None:
            path, _, query = handler.path.partition("?")
            is_list = path.endswith("/o") and "prefix=" in query
            # The rest of an upload is part of the request that began it; removals are free.
            counted["B" if method == "GET" and not is_list else "A"] += 1
            answer(handler)

        return count

    for method in ("GET", "POST"):
        monkeypatch.setattr(RequestHandler, f"do_{method}", counting(method))
    return counted


@pytest.mark.parametrize("pages", [50, 200, 800])
def test_a_plan_is_within_a_quarter_of_the_metered_run(
    pages, build, peer, bucket, requests_by_class, tmp_path
):
    """At three sizes; CPU time, which differs between runs, is in docs/how-to/limit-the-cost.md."""
    crawls = [
        crawl.pages(text, range(first, first + pages), f"{first}.example", 20)
        for first, text in ((1000, crawl.GERMAN), (2000, crawl.ENGLISH), (3000, crawl.GERMAN))
    ]
    files = [
        path.rename(path.with_name(f"big-{path.name}"))
        for path in crawl.write_all(tmp_path / "big", crawls)
    ]
    for path in files:
        upload(Path(path), f"{bucket}/crawl/{path.name}")
    planned = plan_build(list(map(str, files)), LENIENT)["estimated"]["dataflow"]
    before, counted = len(peer.jobs), requests_by_class.copy()
    done = build(IN_IMAGE, files="big*", settings=SETTINGS, rules=())
    assert done.returncode == 0, done.stderr
    meters = [job.meters() for job in peer.jobs[before:]]
    shuffled = sum(meter["TotalShuffleDataProcessed"] for meter in meters)
    metered = requests_by_class - counted
    print(planned, meters, metered)
    assert planned["all"]["shuffle_gb"] == pytest.approx([shuffled] * 2, rel=0.25)
    assert planned["all"]["read_requests"] == pytest.approx([metered["B"]] * 2, rel=0.25)
    assert planned["all"]["write_requests"] == pytest.approx([metered["A"]] * 2, rel=0.25)
    # The shuffle of text is that of the last job.
    assert planned["ingest"]["shuffle_gb"] == planned["finish"]["shuffle_gb"] == [0, 0]
    assert shuffled == pytest.approx(meters[-1]["TotalShuffleDataProcessed"], rel=0.05)
    assert storage.exists(f"{bucket}/corpus/manifest.json")
