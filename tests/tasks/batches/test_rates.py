import pytest

from mswitch.pipelines.languages import languages
from mswitch.tasks.batches.mixtures import Mixture, mixtures

PAGES = {code: language.mc4_train_pages for code, language in languages().items() if language.mc4}


TABLE_6 = {"en": 5.67, "ru": 3.71, "es": 3.09, "de": 3.05, "fr": 2.89, "it": 2.43, "pt": 2.36,
           "zh": 1.67, "sw": 0.50, "yo": 0.20}  # fmt: skip


def test_shares_of_mt5_table_6():
    rates = Mixture(mc4_only=True, alpha=1 / 3.3).rates(PAGES)
    found = {code: 100 * rates[code] for code in TABLE_6}
    assert found == pytest.approx(TABLE_6, abs=0.011)


@pytest.mark.parametrize(
    ("mixture", "percents"),
    [
        ("mc4", {"en": 5.589, "ru": 3.667, "sw": 0.4999, "yo": 0.1996}),
        ("mc4.alpha.0.2", {"en": 3.286, "yo": 0.356}),
        ("mc4.alpha.0.7", {"en": 25.04, "yo": 0.0105}),
    ],
)
def test_shares_at_other_exponents(mixture, percents):
    rates = mixtures()[mixture].rates(PAGES)
    assert {code: 100 * rates[code] for code in percents} == pytest.approx(percents, rel=2e-3)


def test_languages_without_records_are_left_out():
    rates = Mixture(alpha=1).rates({"de": 8, "af": 1, "sw": 0})
    assert list(rates.items()) == [("af", pytest.approx(1 / 9)), ("de", pytest.approx(8 / 9))]
    assert Mixture().alpha == 0.3
