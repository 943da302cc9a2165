"""Prices of jobs on Dataflow: tiers, ranges, and tables that users give."""

import csv
import importlib.resources
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.dataflow_prices import MODES, Cost, Phase, read_prices
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import plan_shards
from mswitch.pipelines.runners import use_runner

OWN = importlib.resources.files("mswitch.pipelines").joinpath("dataflow_prices.csv").read_text()
PHASES = st.builds(
    Phase,
    st.floats(0, 1e9),
    st.integers(1, 10**6),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(0, 1e15),
)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    """Give a function that writes the table with other values of some rows."""

    def write(**values: float) -> str:
        rows = list(csv.DictReader(OWN.splitlines()))
        for row in rows:
            if row["name"] in values:
                row["low"] = row["high"] = str(values[row["name"]])
        path = tmp_path / "prices.csv"
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    return write


def test_every_row_is_explained_and_asks_to_be_replaced():
    for row in csv.DictReader(OWN.splitlines()):
        assert re.fullmatch("(example|assumption).*: replace it", row["source"])
        if row["name"] in ("vcpu_hours", "memory_gb_hours", "shuffle_gb"):
            assert row["source"].startswith("example, source not checked")
        assert row["meaning"]


def test_the_first_gigabytes_of_a_shuffle_cost_less():
    prices = read_prices()
    price = [prices.usd({"shuffle_gb": size}, "batch") for size in (100, 250, 350, 6000)]
    first, second = 250 * 0.00275, 4870 * 0.0055
    assert price == pytest.approx([0.275, first, first + 0.55, first + second + 880 * 0.011])


def test_an_hour_of_a_machine_is_its_cpus_memory_and_disk(table):
    prices = read_prices(table(start_secs=100, busy_share=0.5))
    used = prices.foresee(Phase(cpu_secs=1300, tasks=10, write_requests=7, read_requests=9), 20, 0)
    # Ten workers start, and ten times 130 seconds of work take twice as long.
    assert used["vcpu_hours"] == pytest.approx(1.0)
    assert used["memory_gb_hours"] == pytest.approx(4.0)
    assert used["disk_gb_hours"] == pytest.approx(6.25)
    expected = 0.056 + 4 * 0.003557 + 6.25 * 0.000054 + 7 * 5e-6 + 9 * 4e-7
    assert prices.usd(used, "batch") == pytest.approx(expected)
    flexible = 0.0336 + 4 * 0.0021342 + 6.25 * 0.000054 + 7 * 5e-6 + 9 * 4e-7
    assert prices.usd(used, "flexrs") == pytest.approx(flexible)


@given(st.dictionaries(st.sampled_from(["ingest", "finish"]), PHASES, min_size=1), st.integers(1))
def test_ranges_are_in_order_and_phases_add_up(phases, workers):
    estimated = read_prices().estimate(phases, workers)
    for part in estimated.values():
        assert all(low <= high for low, high in part.values())
        assert part["flexrs_usd"] <= part["batch_usd"]
    for mode in MODES:
        whole = [sum(estimated[name][f"{mode}_usd"][end] for name in phases) for end in (0, 1)]
        assert estimated["all"][f"{mode}_usd"] == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("vcpu_hours,batch,0,0.056", "vcpu_hours,batch,0,-1"), "vcpu_hours cannot be"),
        (("vcpu_hours,batch,0,0.056", "vcpu_hours,batch,0,inf"), "vcpu_hours cannot be"),
        (("busy_share,,0,0.9", "busy_share,,0,0"), "busy_share cannot be"),
        (("read_requests,,0,", "read_requests,,0,a"), "could not convert"),
        (("read_requests,", "requests,"), "batch read_requests, batch requests"),
        (("name,mode", "name,kind"), "'mode'"),
    ],
)
def test_a_table_that_lacks_something_is_refused(change, message, tmp_path):
    path = tmp_path / "prices.csv"
    assert change[0] in OWN
    path.write_text(OWN.replace(*change))
    with pytest.raises(UserError, match=message) as refused:
        read_prices(str(path))
    assert str(refused.value).startswith(f"--prices {path}: ")


def test_a_limit_needs_meters():
    with pytest.raises(UserError, match="--max-cost-usd: runner local meters no cost"):
        use_runner("local", cost=Cost(max_cost_usd=1))
    with pytest.raises(UserError, match="--max-cost-usd must be above 0"):
        Cost(max_cost_usd=0)
    with pytest.raises(UserError, match=r"--prices none\.csv"):
        use_runner("local", cost=Cost(prices="none.csv"))


def test_a_plan_of_examples_prices_their_only_job(small_corpus, small_vocabulary, capsys):
    words = ["examples", "plan", "--corpus", str(small_corpus), "--vocab", str(small_vocabulary)]
    assert main([*words, "--inputs-length", "32", "--workers", "3", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    shards = plan_shards(open_corpus(small_corpus))
    assert plan["shards"] == len(shards)
    assert plan["bytes_in"] == sum(shard.size_bytes for shard in shards)
    job = plan["estimated"]["dataflow"]["shards"]
    assert job["write_requests"] == [3 * len(shards)] * 2
    # Three workers that are billed for one to four minutes before they work.
    assert job["vcpu_hours"][0] >= 3 * 60 / 3600
    assert job["vcpu_hours"][1] >= 3 * 240 / 3600
    assert 0 < job["flexrs_usd"][0] < job["batch_usd"][0] < job["batch_usd"][1]
    assert main(words) == 0
    assert re.search(r"(?m)^dataflow: all  .* batch usd, .* flexrs usd$", capsys.readouterr().out)
