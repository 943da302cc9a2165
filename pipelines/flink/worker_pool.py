"""A pool of Python workers for Flink's task managers on one machine, reachable on loopback only.

Beam's own pool (apache_beam.runners.worker.worker_pool_main) works for a single task manager only.
Two task managers give their workers equal names: one that stops its worker would end the other's.
Beam's pool also listens on every interface, and starts workers for anybody.
"""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

_WORKER = (
    "import sys; from apache_beam.runners.worker.sdk_worker import SdkHarness; "
    "SdkHarness(sys.argv[1], worker_id=sys.argv[2]).run()"
)


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts a process for every worker that a task manager requests."""

    def __init__(self):
        self._workers: list[subprocess.Popen[bytes]] = []

    def StartWorker(self, request, context):  # noqa: N802, the protocol's name
        """Start a worker that connects to the task manager."""
        del context
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        command = [sys.executable, "-P", "-c", _WORKER]
        command += [request.control_endpoint.url, request.worker_id]
        self._workers.append(subprocess.Popen(command))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request, context):  # noqa: N802
        """Do nothing: a worker ends when its task manager closes the connection, or dies."""
        del request, context
        return beam_fn_api_pb2.StopWorkerResponse()


def serve(port: int) -> None:
    """Run a pool until the process is killed; all workers are in the process group of the pool."""
    server = grpc.server(ThreadPoolExecutor(4))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(WorkerPool(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
