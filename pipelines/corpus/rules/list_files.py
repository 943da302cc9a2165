"""Lists that a user gives to a build (bad words, blocklists, evaluation sets), by path or URL."""

import contextlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError


def remote_files(url: str) -> dict[str, int]:
    """Return the sizes of the files below a URL by their path relative to it."""
    if set(url) & set("*?["):
        raise UserError(
            f"{url} is a pattern: give each list, or their directory, without *, ? or ["
        )
    sizes = storage.file_sizes(url)
    # Tools that show buckets as folders make an object of no bytes for each.
    return {path: size for path, size in sizes.items() if path and not path.endswith("/")}


@contextlib.contextmanager
def open_list(path: str | Path, what: str) -> Iterator[BufferedReader]:
    """Open a list; a remote one is a local copy while it is open.

    Args:
        path: a file's path or URL.
        what: what an error calls it.
    """
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(storage.fetch(path))
            file = stack.enter_context(open(local, "rb"))
        except UserError:
            raise
        except Exception as error:  # each file system has its own errors
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UserError(
                f"cannot read {what} {path} ({' '.join(reason.split())}): "
                "give a file that is there and may be read"
            ) from error
        yield file
