"""Reports, and runs to report on, that lie in a bucket."""

import json

import pytest
from report_runs import Scenario, write_runs
from trees import put, send
from tuned_runs import right_of_ten, write_tuned

from mswitch.flows.reports.distillation import write_distillation
from mswitch.flows.reports.downstream import write_downstream, write_run_page
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError


def test_reports_in_a_bucket_have_an_index_that_a_browser_shows(bucket, tmp_path):
    pair = write_runs(tmp_path, Scenario({"de": 5}, {"de": 3.0}, steps=50))
    write_report(*pair, tmp_path / "report", ReportConfig(resamples=100))
    for name in ("deep/er/first", "second"):
        send(tmp_path / "report", f"{bucket}/{name}")
    put(f"{bucket}/torn/report.json", (tmp_path / "report" / "report.json").read_bytes())
    assert write_index(bucket) == {
        "stage": "report index",
        "out": f"{bucket}/index.html",
        "reports": 2,
        "downstream": 0,
    }
    rows = json.loads(storage.read_bytes(f"{bucket}/index.json"))["reports"]
    assert {row["href"] for row in rows} == {"./deep/er/first/report.html", "./second/report.html"}
    name, _, path = bucket.removeprefix("gs://").partition("/")
    page = storage.google_client(0).bucket(name).get_blob(f"{path}/index.html")
    assert page.content_type == "text/html"


def test_fine_tuned_runs_in_a_bucket_are_compared(bucket, tmp_path):
    runs = [
        write_tuned(tmp_path / preset, right_of_ten(count), preset, rows={"de": 10})
        for preset, count in (("mt5-tiny", 4), ("mswitch-tiny", 8))
    ]
    urls = [send(run, f"{bucket}/{run.name}") for run in runs]
    write_downstream(runs[:1], runs[1:], tmp_path / "here")
    write_downstream(urls[:1], urls[1:], tmp_path / "there")
    write_run_page(urls[1], tmp_path / "page")
    for name in ("downstream.html", "downstream.json", "downstream.csv"):
        there, here = ((tmp_path / place / name).read_bytes() for place in ("there", "here"))
        assert there == here
    assert bucket.encode() not in (tmp_path / "page" / "run.html").read_bytes()
    with pytest.raises(UserError, match=r"--candidate gs://.* are one run"):
        write_downstream(urls[:1], urls[:1], tmp_path / "out")


def test_an_error_about_a_run_in_a_bucket_names_it_as_it_was_given(bucket, tmp_path):
    runs = write_runs(tmp_path, Scenario({"de": 5}, {"de": 3.0}, steps=50))
    urls = [send(run, f"{bucket}/{run.name}") for run in runs]
    with pytest.raises(UserError, match=f"--student {urls[1]} has no teacher"):
        write_distillation(urls[:1], urls[1:], urls[1:], tmp_path / "out")
