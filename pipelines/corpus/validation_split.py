"""Chooses the validation pages; reports languages that have no validation text."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mswitch.pipelines.languages import UNDETERMINED
from mswitch.pipelines.progress import say


def is_validation(halves: np.ndarray, per_mille: int) -> np.ndarray:
    """Return whether each URL fingerprint is for validation (mC4: md5 mod 1000 == 0)."""
    return compute_modulo(halves, 1000) < per_mille


def compute_modulo(halves: np.ndarray, divisor: int) -> np.ndarray:
    """Return the 128-bit integers of `halves` [n, 2] modulo a small `divisor`, as uint64 [n]."""
    high, low = halves[:, 0] % np.uint64(divisor), halves[:, 1] % np.uint64(divisor)
    return (high * np.uint64((1 << 64) % divisor) + low) % np.uint64(divisor)


def say_without_validation(
    stage: str, languages: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Print which languages have no validation documents, and which option would add some.

    `languages` has counts by language and split.
    """
    known = sorted(lang for lang in languages if lang != UNDETERMINED)
    without = [lang for lang in known if not languages[lang].get("validation", {}).get("documents")]
    if without:
        named = ", ".join(without[:5]) + (" ..." if len(without) > 5 else "")
        say(
            stage,
            f"no validation text in {len(without):,} of {len(known):,} languages ({named}): too "
            "few pages for --validation-per-mille; with --min-validation-documents 5, each "
            "language of two or more documents gets some",
        )
