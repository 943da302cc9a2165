import pytest

from mswitch.pipelines.languages import languages
from mswitch.tasks.batches.mixtures import Mixture

PAGES = {code: language.mc4_train_pages for code, language in languages().items() if language.mc4}


@pytest.mark.parametrize(
    ("code", "percent"),
    [
        ("en", 5.67),
        ("ru", 3.71),
        ("es", 3.09),
        ("de", 3.05),
        ("fr", 2.89),
        ("it", 2.43),
        ("pt", 2.36),
        ("zh", 1.67),
        ("sw", 0.50),
        ("yo", 0.20),
    ],
)
def test_shares_of_mt5_table_6(code, percent):
    assert 100 * Mixture(alpha=1 / 3.3).rates(PAGES)[code] == pytest.approx(percent, abs=0.011)


@pytest.mark.parametrize(
    ("alpha", "code", "percent"),
    [
        (0.3, "en", 5.589),
        (0.3, "ru", 3.667),
        (0.3, "sw", 0.4999),
        (0.3, "yo", 0.1996),
        (0.2, "en", 3.286),
        (0.2, "yo", 0.356),
        (0.7, "en", 25.04),
        (0.7, "yo", 0.0105),
    ],
)
def test_shares_at_other_exponents(alpha, code, percent):
    assert 100 * Mixture(alpha=alpha).rates(PAGES)[code] == pytest.approx(percent, rel=2e-3)


def test_languages_without_records_are_left_out():
    rates = Mixture(alpha=1).rates({"de": 8, "af": 1, "sw": 0})
    assert list(rates.items()) == [("af", pytest.approx(1 / 9)), ("de", pytest.approx(8 / 9))]
    assert Mixture().alpha == 0.3
