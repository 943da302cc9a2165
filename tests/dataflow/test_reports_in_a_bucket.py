"""The index of reports that lie in a bucket."""

import json

from report_runs import Scenario, write_runs

from flows.report.build import ReportConfig, write_report
from flows.report.index import write_index
from pipelines import storage


def test_reports_in_a_bucket_have_an_index_that_a_browser_shows(bucket, upload, tmp_path):
    pair = write_runs(tmp_path, Scenario({"de": 5}, {"de": 3.0}, steps=50))
    write_report(*pair, tmp_path / "report", ReportConfig(resamples=100))
    for name in ("deep/er/first", "second"):
        for path in (tmp_path / "report").iterdir():
            upload(path, storage.join(bucket, name, path.name))
    upload(tmp_path / "report" / "report.json", storage.join(bucket, "torn", "report.json"))
    assert write_index(bucket) == {
        "stage": "report index",
        "out": f"{bucket}/index.html",
        "reports": 2,
    }
    rows = json.loads(storage.read_bytes(f"{bucket}/index.json"))["reports"]
    assert {row["href"] for row in rows} == {"./deep/er/first/report.html", "./second/report.html"}
    name, _, path = bucket.removeprefix("gs://").partition("/")
    page = storage.google_client(0).bucket(name).get_blob(f"{path}/index.html")
    assert page.content_type == "text/html"
