"""Compiles loops over bytes and numbers with Numba.

A function is compiled at its first call, which takes seconds, and cached in `__pycache__` or the
user's cache directory until it or something it uses changes. If neither is writable, each process
compiles the functions that it calls. Numba is imported at the first call, since most processes make
none.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from mswitch.pipelines.progress import say

# Lock for changes of Numba's configuration, which all threads share.
_CONFIGURING = threading.Lock()

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class compiled(Generic[_Parameters, _Result]):  # noqa: N801, a decorator
    """Compiles a function to machine code, which other compiled functions may call.

    Integers are NumPy's and overflow silently. Indices are not checked.
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

        directory = _find_directory(self._function)
        if not directory or not os.listdir(directory):
            _say_compiling()
        with _CONFIGURING:
            before = config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
            config.CACHE_DIR = directory  # pyright: ignore[reportAttributeAccessIssue]
            try:
                return numba.njit(cache=bool(directory), nogil=True)(self._function)
            finally:
                config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _numba_type_(self) -> Any:
        """Type that Numba requests if one compiled function calls another."""
        import numba

        return numba.typeof(self._dispatcher)


@functools.cache
def _say_compiling() -> None:
    say("compile", "compiling loops over text for this machine, once: ten seconds to a minute")


def _find_directory(function: Callable[..., Any]) -> str:
    package = Path(__file__).parent
    user = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    for parent in (package / "__pycache__", Path(user) / "mswitch"):
        directory = parent / "compiled" / _hash_function(function)[:16]
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return str(directory)
    return ""


def _hash_function(function: Callable[..., Any]) -> str:
    """Hash everything that a function is compiled from, including constants and called functions.

    Numba's own cache only checks the function's file.
    """
    digest = hashlib.sha256(function.__code__.co_code + repr(function.__code__.co_consts).encode())
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, compiled):
            digest.update(_hash_function(value._function).encode())
        elif isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, int | float | np.generic):
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


@functools.cache
def get_random_seed() -> np.uint64:
    """Return a seed that authors of pages cannot predict, so they cannot make hashes collide."""
    return np.uint64(int.from_bytes(os.urandom(8), "little"))


@compiled
def choose_table_size(count: int) -> int:
    """Return the number of slots of a hash table for `count` entries: a power of two."""
    size = 2
    while size < 2 * count:
        size *= 2
    return size
