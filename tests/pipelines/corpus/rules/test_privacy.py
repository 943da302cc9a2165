import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.rules import privacy
from mswitch.pipelines.corpus.rules.privacy import (
    EMAIL,
    IP_ADDRESS,
    PHONE,
    mask_personal_data,
    mask_sample,
)
from mswitch.pipelines.records import DETAIL_CHARACTERS, Rejected


@pytest.mark.parametrize(
    "address",
    [
        *("jane.doe@example.org", "j+lists@mail.example.co.uk", "müller@bücher.example"),
        *("a_b%c-1@x1.museum", "JANE@EXAMPLE.ORG"),
    ],
)
def test_email_addresses(address):
    found = mask_personal_data(f"Write to <{address}>, or mailto:{address}.")
    assert found.text == f"Write to <{EMAIL}>, or mailto:{EMAIL}."
    assert (found.emails, found.ips, found.phones) == (2, 0, 0)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_ip_addresses(address):
    found = mask_personal_data(f"from {address}, port 80; [{address}]")
    assert found.text == f"from {IP_ADDRESS}, port 80; [{IP_ADDRESS}]"
    assert found.ips == 2


@pytest.mark.parametrize(
    "number",
    [
        *("+49 30 1234567", "+1-212-555-0123", "+44 (0)20 7946 0958", "+690 3101"),
        *("+33123456789", "0049 30 1234567", "030 / 123 45 67", "01 23 45 67 89"),
        *("01.23.45.67.89", "020 7946 0958", "03-1234-5678", "(030) 1234567", "(11) 98765-4321"),
        *("(212) 555-0123", "212-555-0123", "1-212-555-0123", "212.555.0123"),
    ],
)
def test_phone_numbers(number):
    found = mask_personal_data(f"Tel.: {number}, or {number}.")
    assert found.text == f"Tel.: {PHONE}, or {PHONE}."
    assert found.phones == 2
    for before in ("Tel:", "Tel.:", "ТЕЛ:"):
        assert mask_personal_data(f"{before}{number}").text == f"{before}{PHONE}"


#: Digits as Arabic, Persian, Hindi and Thai have them, and full-width with its signs.
WRITTEN = [str.maketrans("0123456789", digits) for digits in (
    "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹", "०१२३४५६७८९", "๐๑๒๓๔๕๖๗๘๙", "０１２３４５６７８９",
)] + [str.maketrans("0123456789+()-./", "０１２３４５６７８９＋（）－．／")]  # fmt: skip


@pytest.mark.parametrize("digits", WRITTEN)
@given(text=st.text(st.sampled_from("0123456789+() -a%"), max_size=40))
@example(text="a +49 30 1234567, 030 / 123 45 67, (11) 98765-4321, 0049 30 1234567")
@example(text="in 1998-2003, 200 300 4000 and 500 10000")
def test_phone_numbers_in_other_digits(digits, text):
    """What is one in ASCII is one, and nothing else; the text around stays as it is."""
    plain = mask_personal_data(text)
    assert mask_personal_data(text.translate(digits)) == plain._replace(
        text=PHONE.join(part.translate(digits) for part in plain.text.split(PHONE))
    )


def test_a_full_width_address():
    assert (
        mask_personal_data("ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ, joe＠example.org").text
        == f"{EMAIL}, {EMAIL}"
    )


@pytest.mark.parametrize("price", ["١٢٣٤٥٦٧٫٨٩", "٢٠٠ ٣٠٠ ٤٠٠٠", "٠٣٠ ١٢٣٤٥٦٧٪"])
def test_prices_and_shares_in_other_digits_stay(price):
    assert mask_personal_data(price).text == price


@pytest.mark.parametrize(
    "text",
    [
        # No addresses of mail,
        *("@handle and @ alone", "user@localhost", "logo@2x.png", "git@", "a@b.c", "price 5@9.99"),
        "x@example.org1",
        # or of machines that identify anybody,
        *("192.168.1.20", "127.0.0.1", "10.20.30.40", "192.0.2.44", "section 6.3.1.5"),
        *("version 2.6.32.1", "300.11.12.13", "10.11.12.13.14", "v93.184.216.34", "::1"),
        *("fe80::1ff:fe23:4567:890a", "2001:db8::17", "std::vector a::b dead::beef"),
        "at 12:30:45, 1:2:3:4",
        # or phone numbers.
        *("in 1998-2003 and 2010 - 2020", "on 01.02.2024 at 10.30", "on 2024-02-01 12.00"),
        *("04/05/2023 1200", "ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2", "ISBN: 0306 406 152"),
        *("ISSN 0317-8471 0317-8471", "1 234 567 890 inhabitants", "0.123456789"),
        *("$1,234,567.89 or 1.234.567,89 €", "pages 01 02 03 04 05 06", "Boston, MA 02110-1301"),
        *("200 300 4000 and 500 10000", "20230508 1000000000", "08.00-12.00 13.00-17.00"),
        *("(2010) 123 456", "3.14159265358979", "id=0301234567-12", "x+49301234567"),
    ],
)
def test_what_resembles_personal_data_stays(text):
    assert mask_personal_data(text).text == text


@given(st.text(st.sampled_from("a1.@+-():/ 0[]\n9"), max_size=60))
def test_masking_twice_changes_nothing(text):
    once = mask_personal_data(text)
    twice = mask_personal_data(once.text)
    assert twice.text == once.text
    assert twice.emails == twice.ips == twice.phones == 0


#: The patterns as one would write them, what must not stand before it first: slow to search for.
PLAIN = {
    "_IPV4": r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])",
    "_IPV6": r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}"
    r"(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4})?(?![\w:])",
    "_NUMBER": r"(?:(?<![\w.,+/=%&#@:-])|(?<=[^\W\d_]:)|(?<=[.]:))\+?\(?\+?[0-9]"
    r"(?:[ \u00a0()./‐‑–-]{0,3}[0-9]){6,16}(?![\w%€$£]|[.,][0-9])",
}


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=1000)
@example(text="::F::::1::")
@example(text="F:1111111")
@given(
    text=st.text(st.sampled_from("0123456789+(). a,%:"), max_size=40)
    | st.text(st.sampled_from(":1.F"), min_size=5, max_size=20)
)
def test_a_pattern_finds_what_the_plain_one_finds(name, text):
    found = [match.span() for match in getattr(privacy, name).finditer(text)]
    assert found == [match.span() for match in re.finditer(PLAIN[name], text)]


@given(st.ip_addresses().map(str))
def test_no_text_with_an_address_is_passed_over(address):
    hint = privacy._IN_IPV6 if ":" in address else privacy._IN_IPV4
    assert hint.search(address)


@pytest.mark.parametrize("prefix", ["", "und 0.123: "])
@pytest.mark.parametrize("before", [283, 983])
def test_a_sample_of_a_page_shows_no_half_address(prefix, before):
    text = f"{prefix}{'天，' * before}"[: before - 1] + f"，zhang.wei@example.com{'，' * 1000}"
    ledger = Ledger(stages=["quality"], mask=mask_sample)
    ledger.drop(Rejected("quality", "short", "a.wet@0", detail=text))
    sample = ledger.find_example("short")["detail"]
    assert sample == mask_personal_data(text).text[:DETAIL_CHARACTERS]


def test_a_sample_of_a_page_is_masked():
    assert mask_sample("Write to jane@example.org\nor Tel:+49 30 1234567.") == (
        f"Write to {EMAIL}\nor Tel:{PHONE}."
    )


@given(st.text(max_size=60))
def test_text_around_stays(text):
    found = mask_personal_data(f"{text}\n jane@example.org \n")
    assert found.text.endswith(f"\n {EMAIL} \n")
    assert found.emails >= 1


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "1", "a@", "a.", "1.", "1 ", "1-", "(1", "+1", "a:", "1:", "a@a.", "a.a@", "0 ("),
        *("+", "@"),
    ],
)
@pytest.mark.timeout(60)
def test_hostile_text_is_no_trouble(unit):
    """Well under a second; were any pattern quadratic, it would be hours."""
    found = mask_personal_data(unit * (2_000_000 // len(unit)))
    assert found.emails + found.ips <= 1
