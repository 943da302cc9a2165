"""`python -m mswitch.pipelines.dataflow.launch`: the program of the flex template.

Dataflow's launcher passes `--name=value`, expects one job, and must not wait. But a build is many
jobs, one after the other. So the job launched here conducts them: its one worker runs
`build_corpus` like the command. If it fails, it runs again and continues where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import USER_ERROR

#: Parameters of the template; metadata.json describes them.
PARAMETERS = ("input", "out", "append", "badwords", "set")
#: The launcher's options for the job that conducts the build; the other jobs must not get them.
_OWN_OPTIONS = ("runner", "job_name", "template_location", "staging_location", "dataflow_job_file")
#: Options of the conductor, which mostly waits; they override the options for the build's jobs.
_CONDUCTOR = (
    "--num_workers=1",
    "--max_num_workers=1",
    "--autoscaling_algorithm=NONE",
    "--machine_type=e2-standard-4",
    "--number_of_worker_harness_threads=1",
    "--no_save_main_session",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch the job; return the exit code."""
    try:
        launch(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"mswitch: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def launch(arguments: Sequence[str]) -> None:
    """Submit the job that conducts a build, without waiting for it."""
    import apache_beam as beam

    from mswitch.pipelines.dataflow.conductor import conduct
    from mswitch.pipelines.runners import pipeline_options

    request, options = build_request(arguments)
    # Omit FlexRS (delayed start), so that the conductor does not wait for hours.
    own = [option for option in options if _get_name(option) not in ("runner", "flexrs_goal")]
    pipeline = beam.Pipeline(options=pipeline_options("dataflow", [*own, *_CONDUCTOR]))
    _ = pipeline | "Request" >> beam.Create([request]) | "ConductBuild" >> beam.Map(conduct)
    pipeline.run()


def build_request(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Parse arguments: return the request for a build as plain values, and all Beam options."""
    from mswitch.pipelines.corpus.config import parse_config
    from mswitch.pipelines.runners import pipeline_options

    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in PARAMETERS:
        parser.add_argument(f"--{name}", default="")
    given, options = parser.parse_known_args(arguments)
    inputs = [part for part in given.input.split(",") if part]
    _check_urls("input", inputs, ("gs://", "https://"))
    _check_urls("out", [given.out], ("gs://",))
    if given.badwords:
        _check_urls("badwords", [given.badwords], ("gs://",))
    if given.append.lower() not in ("", "true", "false"):
        raise UserError(f"--append={given.append}: give true or false")
    for_build = [option for option in options if _get_name(option) not in _OWN_OPTIONS]
    # Call both functions now, so that their errors are raised before a job starts.
    parse_config(given.set)
    pipeline_options("dataflow", for_build)
    request = {
        "inputs": inputs,
        "out": given.out,
        "append": given.append.lower() == "true",
        "badwords": given.badwords or None,
        "set": given.set,
        "beam_options": for_build,
    }
    return request, options


def _check_urls(name: str, urls: Sequence[str], schemes: tuple[str, ...]) -> None:
    for url in urls or [""]:
        if not url.startswith(schemes):
            raise UserError(
                f"--{name}: {storage.hide_secrets(url) or 'it is missing'}: give a URL that "
                f"begins with {' or '.join(schemes)}"
            )


def _get_name(option: str) -> str:
    return option.removeprefix("--").partition("=")[0]


if __name__ == "__main__":
    sys.exit(main())
