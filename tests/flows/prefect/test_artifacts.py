"""What a person sees of a run in Prefect."""

from mswitch.flows.prefect import artifacts
from mswitch.flows.prefect.artifacts import key_of, last_metrics


def test_the_last_metrics_are_those_of_the_last_whole_line(tmp_path):
    assert last_metrics(tmp_path) == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_metrics(tmp_path) == [{"step": 2}]
    assert last_metrics(tmp_path, 5) == [{"step": 1}, {"step": 2}]
    file.write_text('{"st')
    assert last_metrics(tmp_path) == []


def test_an_artifact_has_a_key_that_prefect_allows_and_numbers_that_one_can_read(monkeypatch):
    assert key_of("report", "My pair_1.2") == "report-my-pair-1-2"
    shown = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, *_: shown.extend(rows))
    artifacts.show_table("key", [{"lang": "af", "share": 0.07281553398058252, "n": 12345}])
    assert shown == [{"lang": "af", "share": 0.07282, "n": 12345}]
