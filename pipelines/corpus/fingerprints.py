"""128-bit fingerprints of URLs, lines and texts, and their packed arrays.

All are MD5, as in mC4's code: these numbers decide the split and the owner of a line. MD5 gives no
security here: an author who makes collisions only makes two of their own lines equal.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

try:
    # For a line, Python's own MD5 takes half the time of OpenSSL's MD5, which hashlib prefers.
    import _md5 as _hashes  # pyright: ignore[reportMissingImports]
except ImportError:  # this Python was built without `_md5`
    import hashlib as _hashes

md5: Callable[..., Any] = _hashes.md5

FINGERPRINT_BYTES = 16


def fingerprint(text: str | bytes) -> bytes:
    """Return the 16-byte MD5 of `text` in UTF-8; bytes are already UTF-8."""
    utf8 = text.encode() if isinstance(text, str) else text
    return md5(utf8, usedforsecurity=False).digest()


def fingerprint_lines(text: str, lang: str = "") -> bytes:
    """Return 16 bytes per line, packed; lines that differ only in case are equal (mC4's rule).

    Args:
        text: lines without white space around them, as `normalize_lines` returns them. (mC4's code
            strips each line again. Lower-casing the whole text equals lower-casing each line, since
            no Unicode rule looks beyond a newline.)
        lang: if given, equal lines of different languages get different fingerprints.
    """
    lines = text.lower().encode().split(b"\n")
    if lang:
        # The newline separates language and line, because no line contains a newline.
        salt = md5(f"{lang}\n".encode(), usedforsecurity=False)
        return b"".join([_add_salt(salt, line) for line in lines])
    return b"".join([md5(line, usedforsecurity=False).digest() for line in lines])


def _add_salt(salt: Any, line: bytes) -> bytes:
    digest = salt.copy()
    digest.update(line)
    return digest.digest()


def unpack(hashes: bytes) -> np.ndarray:
    """Read packed 16-byte hashes as uint64 [n, 2], the high half before the low half."""
    return np.frombuffer(hashes, ">u8").astype(np.uint64).reshape(-1, 2)


def unpack_column(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return all fingerprints in a column without nulls; see `unpack`."""
    if not len(column) or not pa.types.is_fixed_size_binary(column.type):
        return unpack(b"".join(column.to_pylist()))
    # Hundreds of times as fast as `to_pylist`.
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.byte_width
    data = array.buffers()[1].slice(array.offset * width, len(array) * width)
    return unpack(data.to_pybytes())


def order_keys(keys: np.ndarray) -> np.ndarray:
    """Return the indices of keys [n, columns] in numeric order; the first column is the highest."""
    return np.lexsort(keys.T[::-1])
