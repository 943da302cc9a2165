"""Routing by language: what the experts tell about it, and the heat map."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from made_reports import make_report
from report_runs import Scenario, write_runs

from mswitch.flows.reports.figures_by_language import routing_panels
from mswitch.flows.reports.routing import (
    Routing,
    entropy_bits,
    information_bits,
    routing_data,
    routing_from_table,
)


def test_entropy_of_even_shares_is_the_logarithm_of_their_number():
    assert entropy_bits(np.full(8, 5)) == pytest.approx(3)
    assert entropy_bits(np.array([7, 0, 0])) == 0


def test_experts_that_split_languages_tell_all_and_those_that_all_share_nothing():
    # Two equally large languages, each with experts of its own: one bit.
    table = np.array([[50_000, 50_000, 0, 0], [0, 0, 50_000, 50_000]])
    assert information_bits(table) == pytest.approx(1, abs=1e-4)
    assert information_bits(np.array([[300, 100], [600, 200]])) == 0


def test_the_bias_of_counting_is_taken_off():
    generator = np.random.default_rng(0)
    shares = np.full(16, 1 / 16)
    found = []
    for _ in range(200):
        table = generator.multinomial(200, shares, 20)
        raw = entropy_bits(table.sum(1)) + entropy_bits(table.sum(0)) - entropy_bits(table.ravel())
        found.append((raw, information_bits(table)))
    raw, corrected = np.mean(found, axis=0)
    assert raw > 0.04
    assert corrected < raw / 10


def test_rows_become_counts_in_any_order():
    rows = [("sw", 1, 0, 5), ("de", 0, 2, 7), ("sw", 0, 1, 3)]
    names = ("lang", "layer", "expert", "tokens")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    found = routing_from_table(table)
    assert found.langs == ("de", "sw")
    assert found.tokens.shape == (2, 2, 3)
    assert found.tokens[0, 0, 2] == 7
    assert found.tokens[1, 1, 0] == 5
    assert found.tokens.sum() == 15


def test_layers_are_named_by_their_stack():
    tokens = np.ones((2, 3, 4), np.int64)
    tokens[:, 1, 0] = 0
    found = routing_data(Routing(("de", "sw"), tokens), encoder_layers=2)
    assert [layer["name"] for layer in found["layers"]] == ["encoder 1", "encoder 2", "decoder 1"]
    assert found["even_entropy_bits"] == 2
    assert [layer["unused_experts"] for layer in found["layers"]] == [0, 1, 0]
    assert found["layers"][1]["entropy_bits"] == pytest.approx(math.log2(3))


def test_languages_routed_alike_stand_together():
    alike = {"a": [90, 5, 5], "b": [5, 90, 5], "c": [88, 6, 6], "d": [6, 88, 6], "e": [5, 5, 90]}
    tokens = np.array([[row] for row in alike.values()], np.int64)
    (panel,) = routing_panels(Routing(tuple(alike), tokens), 0, {}, panels=1)
    order = "".join(re.findall(r">(\w)</text>", panel.body))
    assert sorted(order) == list("abcde")
    assert "ac" in order or "ca" in order
    assert "bd" in order or "db" in order


def test_the_report_shows_the_routing(full):
    bits = [layer["information_bits"] for layer in full.report["routing"]["layers"]]
    # The fixture's encoder routes by script, its decoder at random.
    assert min(bits[:2]) > 0.5
    assert max(bits[2:]) < 0.001
    assert "Routing by language" in full.html
    # Of 7,247,757,312 parameters of experts a token meets one 32nd; the rest it meets all.
    runs = full.report["runs"]
    assert runs["candidate"]["active_parameters"] == 527_242_688 + 226_492_416
    assert runs["baseline"]["active_parameters"] == 582_400_000


def test_without_routing_the_report_does_without(tmp_path):
    runs = write_runs(tmp_path, Scenario({"de": 6}, {"de": 2.0}, steps=100))
    (runs[1] / "routing" / "100.parquet").unlink()
    made = make_report(runs, tmp_path / "out")
    assert made.report["routing"] is None
    assert "Routing by language" not in made.html
    assert not (made.out / "routing.svg").exists()
