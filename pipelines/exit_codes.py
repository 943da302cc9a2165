"""Exit codes of `mswitch` (docs/reference/exit-codes.md)."""

import signal

DEFECT = 1
USER_ERROR = 2
#: The same command must be started again (EX_TEMPFAIL). After SIGTERM, everything is saved; after
#: the loss of another process of the job, only the last checkpoint.
RESUME = 75
INTERRUPTED = 128 + signal.SIGINT
