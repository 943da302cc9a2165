"""Outputs and runs stay what they are if a class of settings gets a field."""

import dataclasses

import pytest

from mswitch.flows.reports.intervals import ReportConfig
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.transfer.config import UpcycleConfig
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.rules.base import ListRule
from mswitch.pipelines.corpus.rules.quality import GopherQuality
from mswitch.pipelines.examples.config import ExamplesConfig
from mswitch.pipelines.identities import identifying, identifying_settings
from mswitch.pipelines.supervised.build import SupervisedConfig
from mswitch.pipelines.vocabulary.train import VocabularyConfig
from mswitch.tasks.batches.mixtures import Mixture

KINDS = (
    ModelConfig,
    TrainConfig,
    UpcycleConfig,
    VocabularyConfig,
    ExamplesConfig,
    CorpusConfig,
    SupervisedConfig,
    Mixture,
    ReportConfig,
    GopherQuality,
)


def grown(kind):
    """A copy of a class with a field added."""
    field = ("added", int | None, dataclasses.field(default=None, kw_only=True))
    # Of ours: all fields of a user's class identify an output.
    ours = {"__module__": kind.__module__}
    return dataclasses.make_dataclass(
        kind.__name__, [field], bases=(kind,), namespace=ours, frozen=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_added_identifies_only_what_sets_it(kind):
    before = identifying_settings(kind())
    assert before
    assert identifying_settings(grown(kind)()) == before
    assert identifying_settings(grown(kind)(added=2)) == {**before, "added": 2}


def test_the_fields_of_earlier_hashes_stay_at_their_defaults_too():
    assert identifying_settings(VocabularyConfig())["size"] == VocabularyConfig().size
    assert identifying_settings(ExamplesConfig())["chain"] == ExamplesConfig().chain
    assert "objective" not in identifying_settings(ExamplesConfig())


def test_a_rule_with_a_field_added_has_the_settings_of_before():
    assert grown(GopherQuality)().settings() == GopherQuality().settings()
    assert grown(GopherQuality)(added=2).settings()["added"] == 2


def test_a_user_s_rule_is_identified_by_all_its_fields():
    @dataclasses.dataclass(frozen=True)
    class Own:
        least: int = 3

    assert identifying_settings(Own()) == {"least": 3}


def test_tables_and_lists_hold_settings_too():
    value = {"tasks": (grown(Mixture)(), Mixture(alpha=1))}
    found = identifying_settings(value)["tasks"]
    assert [one["alpha"] for one in found] == [Mixture().alpha, 1.0]
    assert "added" not in found[0]


def test_all_fields_that_a_users_class_declares_identify_an_output():
    """Also below a class of ours, and under the name of one."""

    @dataclasses.dataclass(frozen=True)
    class Paragraphs(ListRule):
        most: int = 5

    assert identifying(Paragraphs()) == ["saved", "most"]
