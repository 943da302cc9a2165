"""Format numbers for report pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Censoring = Literal["none", "lower", "upper"]

SIGNIFICANT_DIGITS = 6
#: Minimum sample size for an interval: documents of a language, or languages in a mean over
#: languages.
MINIMUM_UNITS = 5
CONFIDENCE_PERCENT = "95"

NOT_AVAILABLE = "n/a"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def number(value: float | None, digits: int = 3) -> str:
    """Format a loss or difference with a true minus sign, or n/a.

    A value that would round to zero gets up to three more digits, so that its sign is visible.
    """
    if value is None:
        return NOT_AVAILABLE
    for more in range(4):
        text = f"{value:.{digits + more}f}"
        if float(text) != 0:
            return text.replace("-", MINUS)
    return f"{0:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Format a difference with its sign."""
    text = number(value, digits)
    return text if value is None or text[0] == MINUS or float(text) == 0 else f"+{text}"


def between(
    ci: Sequence[float] | None, show: Callable[[float, int], str] = number, digits: int = 3
) -> str | None:
    """Format an interval; `show` formats each end."""
    return None if ci is None else f"{show(ci[0], digits)} to {show(ci[1], digits)}"


def with_interval(figure: Mapping[str, Any], *, difference: bool = False) -> str:
    """Write a score or difference with its interval."""
    show = signed if difference else number
    shown, interval = show(figure["value"], 1), between(figure["ci"], show, 1)
    return shown if interval is None else f"{shown} ({CONFIDENCE_PERCENT}% interval {interval})"


def percent(share: float) -> str:
    """Format a share as whole percent."""
    return f"{number(100 * share, 0)}%"


def fine_percent(share: float) -> str:
    """Format a share in percent to a tenth; only exact 0 and 1 are shown as 0 and 100."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.0f}%" if value in (0, 100) else f"{value:.1f}%"


def large(value: float | None) -> str:
    """Format a count or FLOPs: whole below a million, else to three significant figures."""
    if value is None:
        return NOT_AVAILABLE
    if abs(value) < 1e6:
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"
    value = float(f"{value:.3g}")
    for scale, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= scale and abs(value) < 1000 * scale:
            return f"{value / scale:.3g} {name}"
    mantissa, exponent = f"{value:.2e}".split("e")
    powers = str(int(exponent)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} {TIMES} 10{powers}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 language`, `1,204 languages`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def significant(value: float | None) -> str:
    """Format a measured number to three significant figures."""
    return NOT_AVAILABLE if value is None else f"{value:.3g}"


def ratio(value: float) -> str:
    """Format a speed-up to one decimal, or to two if it is near or below 1."""
    text = f"{value:.2f}" if value < 1.05 else f"{value:.1f}"
    return "1.0" if text == "1.00" else text if value < 9.95 else f"{value:,.0f}"


def bounded(value: float | None, censored: Censoring = "none") -> str:
    """Format a speed-up, or its bound as `> x` or `< x`."""
    if value is None:
        return NOT_AVAILABLE
    mark = {"none": "", "lower": f">{THIN}", "upper": f"<{THIN}"}[censored]
    return f"{mark}{ratio(value)}{TIMES}"


def speed_up_interval(
    ci: Sequence[float] | None, marks: Sequence[Censoring] | None = None
) -> str | None:
    """Format an interval of speed-ups; mark ends that are only lower or upper bounds."""
    if ci is None:
        return None
    low, high = (
        bounded(end, mark).removesuffix(TIMES)
        for end, mark in zip(ci, marks or ("none", "none"), strict=True)
    )
    if marks and marks[0] == marks[1] != "none":
        return f"{low} throughout"
    return f"{low} to {high}"


def rounded(value: Any) -> Any:
    """Round every float to six significant digits, to hide differences between libraries."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value
