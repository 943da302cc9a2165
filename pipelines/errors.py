"""The one error a user is meant to read."""

import errno
import re

DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


class UserError(Exception):
    """Bad input, option or environment: one line that names it and says how to fix it.

    The command prints the message without a traceback and exits with code 2.
    """


def as_user_error(error: BaseException) -> UserError | None:
    """Find the readable cause inside `error`, or return None when it is a defect of ours.

    Looks through chained exceptions; Beam flattens the original error into the text of a
    RuntimeError, so a full disk is recognised by its text too.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, UserError):
            return cause
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or DISK_FULL.search(str(cause)):
            where = getattr(cause, "filename", None)
            return UserError(
                f"no space left on device{f' writing {where}' if where else ''}: free some space "
                "(or choose another --out) and run the same command again; it continues"
            )
        if isinstance(cause, PermissionError) and cause.filename:
            return UserError(f"no permission for {cause.filename}: choose a path you may use")
        cause = cause.__cause__ or cause.__context__
    return None
