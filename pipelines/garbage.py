"""How often Python looks for cycles of garbage.

By itself it does after every 700 new objects, and once more at its end: a third of what a command
that imports Beam or JAX takes to start and to end, and a twentieth of a worker's time. Few of our
objects hold cycles.
"""

import atexit
import gc

_COLLECT_AFTER = (20_000, 10, 10)


def collect_rarely() -> None:
    """Take all there is for no garbage, look for more rarely, and not at the end of the process."""
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    atexit.register(gc.freeze)
