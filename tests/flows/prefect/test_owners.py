"""Which flow run asked for a job, and who started that."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import CreatedBy, FlowRun

from mswitch.flows.prefect import owners
from mswitch.flows.prefect.owners import name_owner, parse_flow_run_id


def test_the_owner_of_a_job_is_its_flow_run_or_a_person():
    run = uuid4()
    assert parse_flow_run_id(name_owner(run)) == run
    assert parse_flow_run_id("ada") is None


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "pair, by hand"),
        ({"tags": ["mswitch", "owner:ana"]}, "pair of ana, by hand"),
        ({"auto_scheduled": True}, "pair, by its schedule"),
        (
            {"created_by": CreatedBy(type="AUTOMATION", display_value="nights")},
            "pair, by the automation nights",
        ),
        ({"parent_task_run_id": uuid4()}, "pair, by another flow run"),
    ],
)
def test_who_started_a_flow_run(monkeypatch, known, said):
    run = FlowRun(flow_id=uuid4(), **known)
    context = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=run))
    monkeypatch.setattr(owners, "FlowRunContext", context)
    monkeypatch.setattr(owners, "this_deployment", SimpleNamespace(name="pair"))
    monkeypatch.setattr(owners, "this_flow_run", SimpleNamespace(flow_name="flow"))
    assert owners.describe_starter() == said
