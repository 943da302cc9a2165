"""Drops pages whose publishers opt out, if the crawl contains the opt-outs.

Responses in WARC and ARC have headers and HTML; WET records have neither.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.errors import UserError

#: Names of the opt-out signals of publishers.
SIGNALS = ("tdm_reservation", "noai", "train_ai", "noimageai", "noindex")

#: A meta tag ends at the next ">" outside quotes, or at the next "<" even within quotes.
_META = re.compile(
    r"""<[mM][eE][tT][aA](?![\w-])((?:[^<>"']++|"[^"<]{0,2000}+"|'[^'<]{0,2000}+'|["'])*+)"""
)
_ATTRIBUTE = re.compile(
    r"""(?<![\w-])(name|content)\s{0,9}=\s{0,9}(?:"([^"]{0,1000})"|'([^']{0,1000})'|([^\s"'>]{1,1000}))""",
    re.IGNORECASE,
)
#: Matches `train-ai=n` as a member of a dictionary (RFC 9651). If several members contradict each
#: other, an opt-out counts.
_TRAIN_AI = re.compile(r"(?:^|,)\s*train-ai\s*=\s*n\s*(?:$|[,;])", re.IGNORECASE)
#: Robots directives that contain a colon; any other name before a colon is the name of a robot.
_DIRECTIVES_WITH_VALUES = (
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptOut(Rule):
    """Drops HTTP responses whose publisher opts out, by HTTP header or meta tag.

    `mswitch.pipelines.crawl.http_response` calls the rule before text is extracted, so drops
    count at stage `read`.

    The default signals concern training. `tdm-reservation: 1` (TDM Reservation Protocol of the W3C
    community group) reserves rights under article 4 of EU directive 2019/790. `train_ai` means
    `Content-Usage: train-ai=n` (IETF AI Preferences, drafts of 2026). The third is `noai`. To be
    stricter, add `noimageai`, which concerns images, or `noindex`, which concerns search results.

    Attributes:
        honour: signals among tdm_reservation, noai, train_ai, noimageai and noindex.
        robots: names (ASCII) of robots whose directives count, besides those for all robots.
    """

    name: ClassVar[str] = "opt_out"
    is_stage: ClassVar[bool] = False
    preload: ClassVar[tuple[str, ...]] = ("mswitch.pipelines.corpus.rules.warm_up",)

    honour: tuple[str, ...] = ("tdm_reservation", "noai", "train_ai")
    robots: tuple[str, ...] = ("ccbot",)

    def __post_init__(self):
        unknown = sorted(set(self.honour) - set(SIGNALS))
        if unknown:
            raise UserError(f"unknown opt-out {unknown[0]!r}: choose among {', '.join(SIGNALS)}")
        for robot in self.robots:
            if not robot.isascii():
                raise UserError(f"robot {robot!r}: give a name in ASCII")
        # Names of robots are compared in lower case, because case does not matter.
        object.__setattr__(self, "robots", tuple(robot.strip().lower() for robot in self.robots))

    def response_reason(self, headers: Iterable[tuple[str, str]], html: str) -> str | None:
        """Return a page's first opt-out signal in `honour`, as a reason to drop it, or None."""
        signals = find_opt_outs(headers, html, self.robots)
        return next((f"opt_out_{name}" for name in self.honour if name in signals), None)


def find_opt_outs(
    headers: Iterable[tuple[str, str]], html: str, robots: Sequence[str] = ("ccbot",)
) -> frozenset[str]:
    """Return the `SIGNALS` of a page.

    Args:
        headers: names and values of the HTTP response's headers; names may repeat.
        html: the page. Meta tags count anywhere, even in comments: in doubt, an opt-out counts.
        robots: see `OptOut`.
    """
    signals: set[str] = set()
    for name, value in headers:
        lowered = name.strip().lower()
        if lowered == "x-robots-tag":
            signals |= _list_directives(value, robots)
        elif lowered == "tdm-reservation" and value.strip() == "1":
            signals.add("tdm_reservation")
        elif lowered == "content-usage" and _TRAIN_AI.search(value):
            signals.add("train_ai")
    words = ("robots", "tdm-reservation", *robots)
    for (tag,) in map(re.Match.groups, _META.finditer(html)):
        lowered = tag.lower()
        # Skip meta tags that cannot contain an opt-out.
        if not any(word in lowered for word in words):
            continue
        attributes = {
            match[1].lower(): match[2] or match[3] or match[4] or ""
            # If a tag repeats an attribute, the attribute's first value counts.
            for match in reversed([*_ATTRIBUTE.finditer(tag)])
        }
        name = attributes.get("name", "").strip().lower()
        content = attributes.get("content", "")
        if name == "robots" or name in robots:
            signals |= _list_directives(content, robots)
        elif name == "tdm-reservation" and content.strip() == "1":
            signals.add("tdm_reservation")
    return frozenset(signals)


def _list_directives(value: str, robots: Sequence[str]) -> set[str]:
    """Return the opt-out signals in a list of directives; ignore directives for other robots.

    A robot's name applies to all directives after it: `otherbot: noindex, nofollow`.
    """
    directives = set()
    addressed = True
    for part in value.lower().split(","):
        directive = part.strip()
        robot, colon, rest = directive.partition(":")
        if colon and robot.strip() not in _DIRECTIVES_WITH_VALUES:
            addressed = robot.strip() in ("*", *robots)
            directive = rest.strip()
        if addressed:
            directives.add("noindex" if directive == "none" else directive)
    return directives & set(SIGNALS)
