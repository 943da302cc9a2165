"""128-bit fingerprints of URLs, lines and texts, and how they are packed into arrays.

All are MD5, as in mC4's code: the split and the owner of a line follow from these very numbers.
MD5 does not protect here: whoever can craft collisions can make two of their own lines equal.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

try:
    # The interpreter's own MD5 takes a line in half the time of OpenSSL's, which hashlib prefers.
    import _md5 as _hashes  # pyright: ignore[reportMissingImports]
except ImportError:  # built without
    import hashlib as _hashes

md5: Callable[..., Any] = _hashes.md5

FINGERPRINT_BYTES = 16


def fingerprint(text: str | bytes) -> bytes:
    """Return the 16-byte MD5 of `text` in UTF-8 (bytes are that)."""
    utf8 = text.encode() if isinstance(text, str) else text
    return md5(utf8, usedforsecurity=False).digest()


def line_fingerprints(text: str, lang: str = "") -> bytes:
    """Pack 16 bytes per line; lines that differ in case only are equal (mC4's rule).

    Args:
        text: lines without white space around them, as `normalize_lines` leaves them. (mC4's code
            strips each line again; lower-casing all at once is the same as line by line, since
            no rule of Unicode looks beyond a newline.)
        lang: if given, lines of other languages are other lines.
    """
    lines = text.lower().encode().split(b"\n")
    if lang:
        # No line has a newline.
        salt = md5(f"{lang}\n".encode(), usedforsecurity=False)
        return b"".join([_salted(salt, line) for line in lines])
    return b"".join([md5(line, usedforsecurity=False).digest() for line in lines])


def _salted(salt: Any, line: bytes) -> bytes:
    digest = salt.copy()
    digest.update(line)
    return digest.digest()


def unpack(hashes: bytes) -> np.ndarray:
    """Read packed 16-byte hashes as [n, 2] uint64 in numeric order: high half, low half."""
    return np.frombuffer(hashes, ">u8").astype(np.uint64).reshape(-1, 2)


def unpack_column(column: pa.ChunkedArray) -> np.ndarray:
    """Return the fingerprints in a column of a table, one after the other; see `unpack`."""
    return unpack(b"".join(column.to_pylist()))


def key_order(keys: np.ndarray) -> np.ndarray:
    """Return the indices of 128-bit keys [n, 2] in numeric order."""
    return np.lexsort((keys[:, 1], keys[:, 0]))
