"""Masks personal data in text by fixed placeholders.

Patterns look only at the form, so both kinds of error occur. They do not match:
- private, reserved and documentation IP addresses, which identify no person;
- dotted quads with fewer than two numbers of 10 or more, which are sections and versions (such as
  all 765 public ones in Debian's installation guide; one in 600 random addresses is missed);
- numbers that could also be years, prices, dates, ISBNs or post codes.

A phone number counts if it is written internationally (`+49 30 1234567`), with a trunk zero and
separators (`030 / 123 45 67`), with an area code in parentheses, or as in North America. Its digits
may be of any script up to U+FFFF, and its signs full-width; IP addresses are ASCII. The
phonenumbers library 9.0 has examples for 245 regions: all match in international form, and half in
national form, which in many regions is six to eight digits like any number. That library's own
matcher takes twice the time for phone numbers alone, and needs the region.

All patterns have bounded repeats, so time is linear in the length of any page. Few pages have
addresses, so a faster search first looks for the sign that every address has. For speed, the other
patterns begin with the first character of a match, and then check the character before it. One
core: 60 MB of text per second.
"""

import dataclasses
import ipaddress
import itertools
import re
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

from mswitch.pipelines.corpus.rules.base import Edit
from mswitch.pipelines.records import UNMASKED_CHARACTERS, Page, list_columns

EMAIL, IP_ADDRESS, PHONE = "[EMAIL]", "[IP]", "[PHONE]"

# A match starts only at the start of a token and takes the whole token (possessive), so matching
# takes linear time.
_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}+[@＠]((?:[\w-]{1,63}[.．]){1,8})([^\W\d_]{2,24})(?![\w@])"
)
_LONGEST_EMAIL = 64 + 1 + 8 * 64 + 24
#: Suffixes that look like the last part of a domain, in names such as logo@2x.png.
_FILE_SUFFIXES = frozenset(("png", "jpg", "jpeg", "gif", "webp", "svg", "css", "js"))
_IN_IPV4 = re.compile(r"\.[0-9]{1,3}\.[0-9]")
_IPV4 = re.compile(r"[0-9](?<![\w.][0-9])[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?!\w|\.[0-9])")
_IN_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(
    r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])(?:(?<=:)|(?<!:)[0-9A-Fa-f]{0,3}:)"
    r"(?:[0-9A-Fa-f]{0,4}:){1,6}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4})?"
    r"(?![\w:])"
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

#: Decimal digits of all scripts up to U+FFFF. With digits beyond U+FFFF, a regular expression's
#: class is ten times slower.
_DIGITS = "".join(filter(str.isdecimal, map(chr, range(0x10000))))
_ASCII = {ord(digit): str(int(digit)) for digit in _DIGITS} | {
    full_width: full_width - 0xFEE0 for full_width in range(0xFF01, 0xFF5F)
}
# A phone number has at least seven digits, with up to three separators between two digits. A plus
# sign and an opening parenthesis may precede the first digit. A colon may precede the number if the
# colon ends a word or an abbreviation (Tel.:).
_FORM = (
    r"[+＋(（0-9](?:(?<![\w.,+/=%&#@:-][+＋(（0-9])|(?<=[^\W\d_]:[+＋(（0-9])|(?<=[.]:[+＋(（0-9]))"
    r"(?:(?<=[0-9])|(?<=[(（])[+＋]?[0-9]|(?<=[+＋])[(（]?[+＋]?[0-9])"
    r"(?:[ \u00a0()（）./．／‐‑–－-]{0,3}[0-9]){6,16}(?![\w%٪€$£]|[.,٫٬][0-9])"
)
_NUMBER = re.compile(_FORM.replace("0-9", _DIGITS))
_NOT_A_PHONE = re.compile(r"(?:isbn|issn|ean|doi|iban|bic)[-: \w]{0,12}$", re.IGNORECASE)
_GROUPS = re.compile("[0-9]+")
_ZIP_PLUS_FOUR = [5, 4]
_YEAR = re.compile("(?:19|20)[0-9]{2}")


class Masked(NamedTuple):
    """A text with its personal data masked, and the number of masks of each kind."""

    text: str
    emails: int
    ips: int
    phones: int


def mask_personal_data(text: str) -> Masked:
    """Replace personal data (see `MaskPersonalData`) by placeholders.

    Masking a masked text changes nothing.
    """
    emails = ips = 0
    if "@" in text or "＠" in text:
        text, emails = _mask(_EMAIL, EMAIL, text, _is_email)
    if _IN_IPV4.search(text):
        text, ips = _mask(_IPV4, IP_ADDRESS, text, _is_public)
    if _IN_IPV6.search(text):
        text, more = _mask(_IPV6, IP_ADDRESS, text, _is_public)
        ips += more
    text, phones = _mask(_NUMBER, PHONE, text, _is_phone)
    return Masked(text, emails, ips, phones)


def _mask(
    pattern: re.Pattern[str], placeholder: str, text: str, is_personal: Callable[[re.Match], bool]
) -> tuple[str, int]:
    count = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal count
        if not is_personal(match):
            return match[0]
        count += 1
        return placeholder

    return pattern.sub(replaced, text), count


def mask_sample(beginning: str) -> str:
    """Mask a sample of text; drop a cut-off sample's end, which may be half an address."""
    masked = mask_personal_data(beginning).text
    return masked if len(beginning) < UNMASKED_CHARACTERS else masked[:-_LONGEST_EMAIL]


@dataclasses.dataclass(frozen=True)
class MaskPersonalData(Edit):
    """Replaces e-mail addresses, public IP addresses and phone numbers by placeholders.

    Attributes:
        mask_personal_data: whether to mask; if not, only add the columns, as zeros.
    """

    name: ClassVar[str] = "personal_data"
    columns: ClassVar[Mapping[str, str]] = list_columns("personal_data")
    mask_personal_data: bool = True

    @property
    def changes_text(self) -> bool:
        return self.mask_personal_data

    def edit(self, page: Page) -> None:
        masked = Masked(page.text, 0, 0, 0)
        if self.mask_personal_data:
            masked = mask_personal_data(page.text)
            page.utf8 = masked.text.encode()
        page.columns |= zip(self.columns, masked[1:], strict=True)

    def mask(self, beginning: str) -> str:
        return mask_sample(beginning) if self.mask_personal_data else beginning


def _is_email(match: re.Match[str]) -> bool:
    return match[2].lower() not in _FILE_SUFFIXES


def _is_public(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if (
        isinstance(address, ipaddress.IPv4Address)
        and sum(part >= 10 for part in address.packed) < 2
    ):
        return False
    return address.is_global


def _is_phone(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 20) : match.start()]
    return _has_form_of_phone(match[0].translate(_ASCII)) and not _NOT_A_PHONE.search(before)


def _has_form_of_phone(written: str) -> bool:
    groups = _GROUPS.findall(written)
    sizes = [len(group) for group in groups]
    total = sum(sizes)
    if "+" in written[:2]:
        return total <= 15 and not groups[0].startswith("0")
    if _is_date(groups) or _counts_up(groups):
        return False
    if written.startswith("(") or (sizes[0] == 1 and "(" in written[:3]):
        return _has_area_code(written, groups, sizes)
    if groups[0].startswith("00"):
        return len(groups) >= 3 and 10 <= total <= 17
    if groups[0].startswith("0"):
        return _has_trunk_zero(written, sizes, total)
    return _is_north_american(written, groups, sizes)


def _is_date(groups: list[str]) -> bool:
    if len(groups) < 3:
        return False
    sizes = [len(group) for group in groups[:3]]
    first_year, last_year = _YEAR.fullmatch(groups[0]), _YEAR.fullmatch(groups[2])
    return bool((first_year or last_year) and sum(sizes) <= 8)


def _counts_up(groups: list[str]) -> bool:
    numbers = [int(group) for group in groups]
    return len(numbers) > 2 and all(b - a == 1 for a, b in itertools.pairwise(numbers))


def _has_area_code(written: str, groups: list[str], sizes: list[int]) -> bool:
    """Return whether a number is like (030) 1234567, (11) 98765-4321, 1 (212) 555-0123."""
    if sizes[0] == 1:
        groups, sizes = groups[1:], sizes[1:]
    closed = re.match(r"[0-9]?[ -]?\([0-9]{2,5}\)", written)
    return (
        closed is not None
        and not _YEAR.fullmatch(groups[0])
        and 8 <= sum(sizes) <= 12
        and len(sizes) >= 2
        and sizes[1] >= 3
        and min(sizes) >= 2
    )


def _has_trunk_zero(written: str, sizes: list[int], total: int) -> bool:
    """Return whether a phone number looks like 020 7946 0958, 030/1234567 or 01 23 45 67 89.

    Dots may only separate groups of two digits.
    """
    dotted = "." in written
    return (
        9 <= total <= 12
        and len(sizes) >= 2
        and 2 <= sizes[0] <= 6
        and min(sizes[1:]) >= 2
        and (not dotted or set(sizes) == {2})
        and sizes != _ZIP_PLUS_FOUR
    )


def _is_north_american(written: str, groups: list[str], sizes: list[int]) -> bool:
    """Return whether a number is like 212-555-0123, 212.555.0123, 1-212-555-0123.

    Spaces do not count as separators, since they could separate any numbers.
    """
    if sizes[0] == 1 and groups[0] == "1":
        groups, sizes = groups[1:], sizes[1:]
    separators = set(re.sub("[0-9]", "", written))
    return (
        sizes == [3, 3, 4]
        and groups[0][0] in "23456789"
        and groups[1][0] in "23456789"
        and len(separators) == 1
        and separators <= set("-.‐‑–")
    )
