"""Mixtures: who takes part, with what rate, and how one is named or written down."""

import dataclasses
import itertools
import json
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines.capped_budget import capped_budget
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages, mc4_codes, name_task
from mswitch.tasks.batches.mixtures import MT5_BUDGET, Mixture, find_mixture, list_groups, mixtures
from mswitch.tasks.batches.order import MixtureOrder
from mswitch.tasks.batches.training import TrainBatches

PAGES = {code: languages()[code].mc4_train_pages for code in mc4_codes()}
CODES = tuple(languages())
RECORDS = st.dictionaries(st.sampled_from(CODES), st.integers(1, 10**10), min_size=1)


def unimax(characters: dict[str, int], budget: int, max_epochs: int) -> dict[str, Fraction]:
    """Algorithm 1 of Chung et al. 2023, to the letter and in exact arithmetic."""
    left = Fraction(budget)
    given: dict[str, Fraction] = {}
    ascending = sorted(characters, key=lambda lang: characters[lang])
    for number, lang in enumerate(ascending):
        share = left / (len(ascending) - number)
        cap = characters[lang] * max_epochs
        given[lang] = Fraction(cap) if share > cap else share
        left -= given[lang]
    return given


@given(RECORDS, st.integers(1, 10**12), st.integers(1, 10))
def test_unimax_is_the_published_algorithm(records, budget, max_epochs):
    expected = unimax(records, budget, max_epochs)
    found = capped_budget(dict.fromkeys(records, 1.0), records, budget, max_epochs)
    assert found == pytest.approx({lang: float(share) for lang, share in expected.items()})
    rates = Mixture(alpha=0, max_epochs=max_epochs).rates(records, budget)
    total = sum(expected.values())
    assert rates == pytest.approx({lang: float(share / total) for lang, share in expected.items()})


@given(
    RECORDS,
    st.floats(0, 1),
    st.integers(1, 10**12),
    st.one_of(st.none(), st.floats(0.5, 20)),
    st.randoms(use_true_random=False),
)
def test_rates_sum_to_one_keep_the_cap_and_know_no_order(
    records, alpha, budget, max_epochs, random
):
    mixture = Mixture(alpha=alpha, max_epochs=max_epochs)
    rates = mixture.rates(records, budget)
    assert list(rates) == sorted(records)
    assert sum(rates.values()) == pytest.approx(1)
    assert min(rates.values()) > 0
    shuffled = list(records.items())
    random.shuffle(shuffled)
    assert mixture.rates(dict(shuffled), budget) == rates
    if max_epochs is None:
        return
    epochs = {lang: rates[lang] * budget / count for lang, count in records.items()}
    if not mixture.exceeds(records, budget):
        assert max(epochs.values()) <= max_epochs * (1 + 1e-9)
    else:  # there is no way but to repeat everything alike
        assert list(epochs.values()) == pytest.approx([max(epochs.values())] * len(epochs))
    # Nobody below the cap is worse off than the plain rates would have it.
    plain = Mixture(alpha=alpha).rates(records)
    for lang, rate in rates.items():
        assert rate >= plain[lang] * (1 - 1e-9) or epochs[lang] >= max_epochs * (1 - 1e-9)


def test_a_cap_moves_what_small_languages_cannot_use_to_the_others_by_their_rates():
    records = {"de": 1000, "en": 16_000, "yo": 1}
    rates = Mixture(alpha=0.5, max_epochs=2).rates(records, 5000)
    assert rates["yo"] == pytest.approx(2 / 5000)
    assert rates["en"] / rates["de"] == pytest.approx(4)


def test_explicit_rates():
    rates = Mixture(weights={"sw": 1, "de": 3}).rates({"de": 7, "sw": 9, "en": 5})
    assert rates == {"de": 0.75, "sw": 0.25}
    assert set(mixtures()["mc4.alpha.0.2"].rates(PAGES)) == set(mc4_codes())


TABLE_6 = {"en": 5.67, "ru": 3.71, "es": 3.09, "de": 3.05, "fr": 2.89, "it": 2.43, "pt": 2.36,
           "zh": 1.67, "sw": 0.50, "yo": 0.20}  # fmt: skip


@pytest.mark.parametrize(
    ("mixture", "percents", "tolerance"),
    [
        (Mixture(mc4_only=True, alpha=1 / 3.3), TABLE_6, {"abs": 0.011}),
        ("mc4", {"en": 5.589, "ru": 3.667, "sw": 0.4999, "yo": 0.1996}, {"rel": 2e-3}),
        ("mc4.alpha.0.2", {"en": 3.286, "yo": 0.356}, {"rel": 2e-3}),
        ("mc4.alpha.0.7", {"en": 25.04, "yo": 0.0105}, {"rel": 2e-3}),
    ],
)
def test_shares_are_those_of_mt5s_table_6_and_at_other_exponents(mixture, percents, tolerance):
    rates = (mixtures()[mixture] if isinstance(mixture, str) else mixture).rates(PAGES)
    found = {code: 100 * rates[code] for code in percents}
    assert found == pytest.approx(percents, **tolerance)


def test_languages_without_records_are_left_out():
    rates = Mixture(alpha=1).rates({"de": 8, "af": 1, "sw": 0})
    assert list(rates.items()) == [("af", pytest.approx(1 / 9)), ("de", pytest.approx(8 / 9))]


def test_languages_that_mc4_lacks_take_part_unless_a_filter_leaves_them_out():
    records = {"ast": 20, "en": 40}
    assert Mixture(alpha=1).rates(records) == pytest.approx({"ast": 1 / 3, "en": 2 / 3})
    named = Mixture(weights={"AST": 3, "en": 1})
    assert named.rates(records) == {"ast": 0.75, "en": 0.25}
    assert named.members() == ("ast", "en")
    assert Mixture(max_epochs=2).exceeds(records, 119) is False
    for mixture in (Mixture(mc4_only=True), Mixture(scripts=("Latn",)), Mixture(languages=("en",))):
        assert mixture.rates(records) == {"en": 1}


def test_groups_are_those_of_the_table():
    named = mixtures()
    assert named["mc4.family.Germanic"].members() == (
        *("af", "da", "de", "en", "fy", "is", "lb", "nl", "no", "sv", "yi"),
    )
    assert set(named["mc4.script.Hebr"].members()) == {"iw", "yi"}
    assert "ru-Latn" not in named["mc4.script.Cyrl"].members()
    assert "hr" not in named["mc4.family.Slavic"].members()
    assert "hr" in Mixture(families=("Slavic",)).members()
    assert Mixture(families=("Bantu", "Basque"), scripts=("Latn",)).members() == (
        *("eu", "ny", "sn", "st", "sw", "xh", "zu"),
    )
    for kind in ("script", "tier"):  # each language in one group
        sets = [set(named[name].members()) for name in named if name.startswith(f"mc4.{kind}.")]
        assert sum(map(len, sets)) == len(set.union(*sets)) == 107
    indo_european = named["mc4.family.Indo_European"].members()
    assert set(named["mc4.family.Germanic"].members()) < set(indo_european)
    tiers = {tier: Mixture(tiers=(tier,)).members() for tier in list_groups("tiers")}
    assert "en" in tiers["high"]
    assert "sq" in tiers["mid"]
    assert "yo" in tiers["low"]
    assert "hr" not in {code for members in tiers.values() for code in members}


def test_every_family_and_branch_is_a_group():
    for language in languages().values():
        assert language.family
        assert language.branch != language.family
    families = {language.family for language in languages().values()}
    assert not families & {language.branch for language in languages().values()}


def test_names_suit_seqio_and_are_no_tasks():
    tasks = {name_task(code) for code in languages()}
    for name in mixtures():
        assert re.fullmatch(r"[\w.:#]+", name)
        assert name not in tasks
    assert {"mc4", "mswitch", "mc4.script.Cyrl", "mc4.family.Indo_European"} <= set(mixtures())


def test_a_mixture_is_found_by_name_task_or_file(tmp_path):
    assert find_mixture("mc4.unimax.1") == Mixture(mc4_only=True, alpha=0, max_epochs=1)
    assert find_mixture("mc4.bg_Latn").members() == ("bg-Latn",)
    assert find_mixture("mswitch") == Mixture(alpha=0.3)
    path = tmp_path / "slavic.toml"
    path.write_text('families = ["Slavic"]\ntemperature = 2\nmax_epochs = 4\n')
    assert find_mixture(str(path)) == Mixture(families=("Slavic",), alpha=0.5, max_epochs=4)
    path.write_text("\ufeff[weights]\nde = 3\nhe = 1.5\n")
    assert find_mixture(str(path)) == Mixture(weights={"iw": 1.5, "de": 3})
    written = json.loads(json.dumps(dataclasses.asdict(find_mixture(str(path)))))
    assert written["weights"] == {"de": 3, "iw": 1.5}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("alpha = 0.3\ntemperature = 3", "give a temperature above 0, or alpha, not both"),
        ("temperature = 0", "give a temperature above 0"),
        ('family = ["Slavic"]', "a mixture has no 'family', it has languages, scripts, families"),
        ('families = "Slavic"', "families = 'Slavic' has the wrong type for a mixture"),
        ("weights = 3", "weights = 3 has the wrong type"),
        ('weights = {de = "much"}', "has the wrong type for a mixture"),
        ("mc4_only = 1", "mc4_only = 1 has the wrong type"),
        ("max_epochs = true", "max_epochs = True has the wrong type"),
        ('families = ["Slavonic"]', "unknown 'Slavonic' in families of a mixture: choose among"),
        ('languages = ["x/y"]', "unknown language 'x/y'"),
        ("alpha = -1", "alpha of a mixture is -1.0"),
        ("max_epochs = 0", "max_epochs of a mixture is 0"),
        ("[weights]\nde = 0", "weight of de in a mixture is 0"),
        ("[weights]\nhe = 1\niw = 3", "name a language twice: he, iw"),
        ('families = ["Bantu"]\nscripts = ["Cyrl"]', "no language passes all filters of"),
        ("alpha = ", "cannot read the mixture"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, complaint):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        find_mixture(str(path))
    assert "mine.toml" in str(caught.value)


def test_equal_mixtures_have_equal_json():
    one = Mixture(("sw", "he"), ("Latn", "Hebr"), alpha=0, max_epochs=4)
    other = Mixture(("iw", "sw", "sw"), ("Hebr", "Latn", "Latn"), alpha=0.0, max_epochs=4.0)
    assert one == other
    assert json.dumps(dataclasses.asdict(one)) == json.dumps(dataclasses.asdict(other))
    weighted = [Mixture(weights=given) for given in ({"sw": 1, "he": 2}, {"iw": 2.0, "sw": 1.0})]
    assert len({json.dumps(dataclasses.asdict(mixture)) for mixture in weighted}) == 1


def test_unknown_names_and_missing_files_are_explained():
    for name, message in (
        ("mc4.unimx.1", r"unknown mixture 'mc4\.unimx\.1': did you mean 'mc4\.uni"),
        ("???", r"`mswitch mixture list` has the names, or give a file"),
        ("none.toml", r"cannot read the mixture none\.toml"),
    ):
        with pytest.raises(UserError, match=message):
            find_mixture(name)


def test_what_the_examples_lack_is_named():
    with pytest.raises(UserError, match="the mixture names sw, yo, but the examples have no"):
        Mixture(languages=("de", "sw", "yo")).rates({"de": 5, "sw": 0})
    with pytest.raises(UserError, match=r"no training text in the mixture's languages \(iw, yi\)"):
        mixtures()["mc4.script.Hebr"].rates({"de": 5})
    with pytest.raises(UserError, match="needs the number of training steps"):
        mixtures()["mc4.unimax.1"].rates({"de": 5})


def test_batches_follow_their_mixture(small_examples):
    mixture = Mixture(scripts=("Latn",), alpha=0)
    batches = TrainBatches(small_examples, 64, mixture=mixture)
    in_it = [lang for lang in ("de", "en", "haw", "sw") if lang in batches.languages]
    assert {lang for lang, rate in batches.rates.items() if rate} == set(in_it)
    seen = np.concatenate([batches.batch(step)["language"] for step in range(4096 // 64)])
    for number, lang in enumerate(batches.languages):
        assert (seen == number).sum() == pytest.approx(4096 * batches.rates[lang], abs=2)
    default = TrainBatches(small_examples, 8)
    named = TrainBatches(small_examples, 8, mixture=mixtures()["mswitch"])
    assert np.array_equal(default.batch(3)["language"], named.batch(3)["language"])


def test_batches_repeat_no_language_above_the_cap(small_examples):
    counts = json.loads((small_examples / "manifest.json").read_text())["languages"]
    records = {lang: splits["train"]["records"] for lang, splits in counts.items()}
    batch_size, steps = 8, 8
    mixture = Mixture(alpha=0, max_epochs=1)
    assert not mixture.exceeds(records, batch_size * steps)
    batches = TrainBatches(small_examples, batch_size, mixture=mixture, steps=steps)
    seen = np.concatenate([batches.batch(step)["language"] for step in range(steps)])
    drawn = {lang: (seen == number).sum() for number, lang in enumerate(batches.languages)}
    # The order is exact over windows of 4,096 sequences only: these are 64 of one.
    for lang, count in drawn.items():
        spread = 4 * np.sqrt(batch_size * steps * batches.rates[lang])
        assert count <= records[lang] + spread
    assert batches.rates["haw"] == pytest.approx(records["haw"] / (batch_size * steps))
    with pytest.raises(UserError, match="needs the number of training steps"):
        TrainBatches(small_examples, batch_size, mixture=mixture)


def test_the_cap_holds_for_ten_records_among_a_billion():
    records = {"de": 10**9, "yo": 10}
    rates = mixtures()["mc4.unimax.1"].rates(records, MT5_BUDGET // 2)
    order = MixtureOrder(rates, seed=0)
    windows = MT5_BUDGET // 2 // order.window
    drawn = order._bounds(windows)
    assert 8 <= drawn[2] - drawn[1] <= 11


def test_the_budget_of_mt5():
    assert MT5_BUDGET == 1_024_000_000
    rates = mixtures()["mc4.unimax.1"].rates(PAGES, MT5_BUDGET)
    big = [rates[lang] for lang in ("en", "ru", "de", "pl", "nl")]
    assert all(a == pytest.approx(b) for a, b in itertools.pairwise(big))
    assert rates["yo"] * MT5_BUDGET == pytest.approx(PAGES["yo"])


@settings(max_examples=20)
@given(RECORDS)
def test_every_named_mixture_works_with_any_set_of_languages(records):
    for mixture in mixtures().values():
        if set(mixture.members()) & set(records):
            assert sum(mixture.rates(records, MT5_BUDGET).values()) == pytest.approx(1)
