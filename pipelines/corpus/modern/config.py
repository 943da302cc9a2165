"""Settings of profile `modern` beyond those it shares with `mc4`."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from pipelines.corpus.list_files import open_list
from pipelines.corpus.modern.near_dedup import MinHash
from pipelines.corpus.modern.quality import QualityPolicy
from pipelines.corpus.modern.url_policy import OptOutPolicy, load_blocklist
from pipelines.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernConfig:
    """What decides the bytes of a corpus of profile `modern`.

    Attributes:
        minhash: how near-duplicates are found.
        quality: limits on the quality columns.
        opt_out: which reservations of publishers are honoured (WARC input has them).
        mask_personal_data: mask e-mail addresses, public IP addresses and phone numbers.
        blocklists: files of domains, or directories with one directory a category, by path or
            URL.
        evaluation_sets: .jsonl and .txt files, by path or URL; pages that contain an item are
            dropped.
        contamination_share: the share of an item's n-grams from which a page contains it.
    """

    minhash: MinHash = dataclasses.field(default_factory=MinHash)
    quality: QualityPolicy = dataclasses.field(default_factory=QualityPolicy)
    opt_out: OptOutPolicy = dataclasses.field(default_factory=OptOutPolicy)
    mask_personal_data: bool = True
    blocklists: tuple[str, ...] = ()
    evaluation_sets: tuple[str, ...] = ()
    contamination_share: float = 0.5

    def __post_init__(self):
        if not 0 < self.contamination_share <= 1:
            raise UserError(
                f"contamination_share is {self.contamination_share}: "
                "it must be above 0 and at most 1"
            )

    def settings(self) -> dict[str, Any]:
        """Return what identifies a build: files by their content, wherever they lie.

        Raises:
            UserError: a list cannot be read.
        """
        return {
            **dataclasses.asdict(self),
            "blocklists": load_blocklist(self.blocklists).digest if self.blocklists else None,
            "evaluation_sets": _digests(self.evaluation_sets),
        }


def _digests(paths: Sequence[str]) -> list[str]:
    digests = []
    for path in paths:
        with open_list(path, "the evaluation set") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return sorted(digests)
