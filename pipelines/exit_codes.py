"""Exit codes of `mswitch` (docs/reference/exit-codes.md)."""

import signal

DEFECT = 1
USER_ERROR = 2
#: The same command must be started again (EX_TEMPFAIL). After SIGTERM, everything is saved. After
#: the job lost another process, only the last checkpoint is saved.
RESUME = 75
INTERRUPTED = 128 + signal.SIGINT
