"""Limits of cost on a real Prefect server: the form, the pause, and what a person decides."""

import httpx
import pytest
from operators_server import Served, processes, served, until, with_examples

from mswitch.flows.jobs.record import read_record

pytestmark = [pytest.mark.server, pytest.mark.timeout(1500)]

#: A dollar a second.
TOML = """
[prices.local]
host_hour = 3600
chip = "TPU v5e"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = with_examples(tmp_path_factory.mktemp("operators"))
    with served(directory, TOML) as made:
        yield made


def answer(server: Served, run, **values):
    """Fill in the form, which Prefect writes a moment after it has paused."""

    def answered():
        got = server.post(f"flow_runs/{run}/resume", run_input=values).json()
        return got if "status" in got else None

    return until(answered, 30)


def jobs_alive(server: Served) -> list[list[str]]:
    top = str(server.storage / "pairs")
    return [words for words, _ in processes().values() if any(top in word for word in words)]


def test_a_person_approves_what_a_pair_costs_and_it_stops_there(server):
    run = server.start(
        "pretrain-pair-sample",
        **{"name": "dear", "steps": 1_000_000, "max_cost_usd": 5},
        training={"batch_size": 2},
    )

    # The estimate is above the limit: nothing is started before a person has decided.
    asked = server.wait(run, {"AwaitingApproval", "Failed", "Crashed"})
    assert asked.state.is_paused()
    assert asked.state.message.startswith("The limit is 5.00 USD: 0.00 USD spent, about ")
    assert "mt5-tiny: 1,000,000 steps of " in asked.state.message
    assert "assuming 30% of the peak of 1 x TPU v5e" in asked.state.message
    assert read_record(server.storage / "pairs" / "dear" / "mt5-tiny") is None
    keys = asked.state.state_details.run_input_keyset
    address = f"{server.api}/flow_runs/{run}/input/{keys['schema']}"
    form = until(lambda: (got := httpx.get(address)).is_success and got.json(), 30)
    assert form["properties"].keys() == {"decision", "max_cost_usd"}
    assert form["required"] == ["decision"]
    assert "default" not in form["properties"]["decision"]
    refusal = answer(server, run)
    assert refusal["status"] == "REJECT", refusal
    for wrong in ({"decision": "perhaps"}, {"decision": "yes", "max_cost_usd": 5}):
        assert answer(server, run, **wrong)["status"] == "REJECT"

    # Not approved: Cancelled. Retry, which the UI forces, asks again.
    assert answer(server, run, decision="no")["status"] == "ACCEPT"
    ended = server.wait(run, {"Cancelled", "Failed", "Crashed"})
    assert ended.state_name == "Cancelled"
    server.set_state(run, force=True, type="SCHEDULED", name="AwaitingRetry")
    server.wait(run, {"AwaitingApproval", "Failed", "Crashed"})
    assert read_record(server.storage / "pairs" / "dear" / "mt5-tiny") is None

    # Approved: it trains, and at the new limit it is saved and paused.
    assert answer(server, run, decision="yes", max_cost_usd=100)["status"] == "ACCEPT"
    server.wait(run, {"Running"})
    paused = server.wait(run, {"AwaitingApproval", "Failed", "Crashed"}, 500)
    assert paused.state_name == "AwaitingApproval", server.log
    assert paused.state.message.startswith("The limit is 100.00 USD: 1")
    until(lambda: not jobs_alive(server), 60, lambda: str(jobs_alive(server)))
    runs = [server.storage / "pairs" / "dear" / name for name in ("mt5-tiny", "mswitch-tiny")]
    begun = [out for out in runs if read_record(out) is not None]
    assert {read_record(out).intent for out in begun} == {"pause"}
    assert any(list(out.glob("checkpoints/*")) for out in begun)
    assert any("at most 100.00" in x["description"] for x in server.artifacts("progress").values())

    # Not approved: Cancelled, and nothing was started meanwhile.
    attempts = [len(read_record(out).attempts) for out in begun]
    assert answer(server, run, decision="no")["status"] == "ACCEPT"
    ended = server.wait(run, {"Cancelled", "Failed", "Crashed"})
    assert ended.state_name == "Cancelled"
    assert ended.state.message.startswith("a cost above 100.00 USD was not approved")
    assert [len(read_record(out).attempts) for out in begun] == attempts
