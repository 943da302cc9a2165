"""Executes a staged pipeline, with the setup that Beam's SDK harness gives its workers.

It runs in an environment without this checkout: `worker.py DIRECTORY`, where pipeline.pb and
options.json are; leaves result.json there.
"""

import json
import sys
import time
from pathlib import Path
from unittest import mock

from apache_beam.internal import pickler
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer
from apache_beam.transforms.environments import EmbeddedPythonEnvironment


def main(directory: Path) -> None:
    """Run the pipeline and write down its counters, meters and where its code came from."""
    values = json.loads((directory / "options.json").read_text())
    RuntimeValueProvider.set_runtime_options(values)
    options = PipelineOptions.from_dictionary(values)
    FileSystems.set_options(options)
    pickler.set_library(options.view_as(SetupOptions).pickle_library)
    pipeline = beam_api.Pipeline.FromString((directory / "pipeline.pb").read_bytes())
    for environment in pipeline.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
    shuffled, append = [], GroupingBuffer.append

    def count(buffer: GroupingBuffer, data: bytes) -> None:
        shuffled.append(len(data))
        append(buffer, data)

    with mock.patch.object(GroupingBuffer, "append", count):
        result = FnApiRunner().run_via_runner_api(
            pipeline, PipelineOptions(["--no_save_main_session"])
        )
        result.wait_until_finish()
    counters = [
        {
            "namespace": counter.key.metric.namespace,
            "name": counter.key.metric.name,
            "step": counter.key.step,
            "value": counter.committed,
        }
        for counter in result.metrics().query()["counters"]
    ]
    ours = {
        name: getattr(module, "__file__", None)
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "mswitch"
    }
    meters = {"shuffled_bytes": sum(shuffled), "cpu_secs": time.process_time()}
    (directory / "result.json").write_text(
        json.dumps({"counters": counters, "modules": ours, **meters})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
