"""What a person sees of a run in Prefect."""

from mswitch.flows.prefect import artifacts
from mswitch.flows.prefect.artifacts import key_of


def test_an_artifact_has_a_key_that_prefect_allows_and_numbers_that_one_can_read(monkeypatch):
    assert key_of("report", "My pair_1.2") == "report-my-pair-1-2"
    shown = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, *_: shown.extend(rows))
    artifacts.show_table("key", [{"lang": "af", "share": 0.07281553398058252, "n": 12345}])
    assert shown == [{"lang": "af", "share": 0.07282, "n": 12345}]
