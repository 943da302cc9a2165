"""Loops over single bytes and numbers, compiled by Numba.

A function is compiled when it is first called, which takes seconds, and kept in `__pycache__`, or
in the user's cache directory, until any file of this package changes. Where neither can be written
each process compiles what it uses. Numba itself is imported by then, for most processes never call
one.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

# Numba has one configuration for all threads.
_CONFIGURING = threading.Lock()

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class compiled(Generic[_Parameters, _Result]):  # noqa: N801, a decorator
    """Compiles a function to machine code, which others that are compiled may call.

    Integers are those of NumPy and overflow silently; no index is checked.
    """

    def __init__(self, function: Callable[_Parameters, _Result]):
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(  # noqa: D102
        self, *args: _Parameters.args, **options: _Parameters.kwargs
    ) -> _Result:
        return self._dispatcher(*args, **options)

    @functools.cached_property
    def _dispatcher(self) -> Any:
        import numba
        from numba.core import config

        directory = _directory()
        with _CONFIGURING:
            before = config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
            config.CACHE_DIR = directory  # pyright: ignore[reportAttributeAccessIssue]
            try:
                return numba.njit(cache=bool(directory), nogil=True)(self._function)
            finally:
                config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _numba_type_(self) -> Any:
        """What Numba asks for where one compiled function calls another."""
        import numba

        return numba.typeof(self._dispatcher)


@functools.cache
def _directory() -> str:
    """Return where functions are kept, "" if that is nowhere.

    Numba looks at a function's own file alone, but constants of other files are compiled in.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    user = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    for parent in (package / "__pycache__", Path(user) / "mswitch"):
        directory = parent / f"compiled-{digest.hexdigest()[:16]}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return str(directory)
    return ""


@functools.cache
def random_seed() -> np.uint64:
    """Return what makes hashes that who writes a page cannot foresee, so that few collide."""
    return np.uint64(int.from_bytes(os.urandom(8), "little"))


@compiled
def table_size(count: int) -> int:
    """Return how many slots a hash table has for so many entries: a power of two."""
    size = 2
    while size < 2 * count:
        size *= 2
    return size
