"""`python -m pipelines.flink`: run a Flink cluster on this machine until Ctrl-C or SIGTERM."""

import signal
import sys

from pipelines.errors import UserError
from pipelines.flink.cluster import LocalFlinkCluster


def main() -> int:
    """Start a cluster, say how to use it, and wait."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalFlinkCluster() as cluster:
            options = " ".join(cluster.beam_options)
            print(f"Flink runs ({cluster.rest_url}) until Ctrl-C. To build on it:")
            print(f"mswitch corpus build ... --runner flink -- {options}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except UserError as error:
        print(f"mswitch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
