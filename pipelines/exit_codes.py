"""Exit codes of `mswitch` (docs/reference/exit-codes.md)."""

import signal

DEFECT = 1
USER_ERROR = 2
#: Start the same command again (EX_TEMPFAIL). After SIGTERM everything is saved; after the loss of
#: another process of the job, what the last checkpoint holds.
RESUME = 75
INTERRUPTED = 128 + signal.SIGINT
