"""What a fine-tuned run is of, and its page."""

from pathlib import Path

from mswitch.flows.prefect.artifacts import key_of, show_page, show_table
from mswitch.flows.prefect.steps import step
from mswitch.flows.reports.downstream import RUN_DATA, RUN_PAGE, write_run_page
from mswitch.flows.reports.downstream_sentences import with_interval
from mswitch.models.training.run_directory import read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.outputs import read_json_object


def preset_of(run: Path | str) -> str:
    """The preset of a run, which may lie in a bucket."""
    with open_files(run) as files:
        files.refresh()
        return read_run(files.directory)["preset"]


@step("page of {place.name}")
def show_scores(run: Path | str, place: Path, split: str) -> str:
    """Write the run's page, show its table, and return its first figure."""
    page = place.with_name(f"{place.name}-{split}")
    write_run_page(run, page, split=split, replace=True)
    data = read_json_object(page / RUN_DATA)
    lead = data["results"][0]
    rows = []
    for language in data["languages"]:
        scores = language["results"][0]
        [score] = scores["models"]
        low, high = score["ci"] or (None, None)
        rows.append(
            {
                "lang": language["lang"],
                "rows": language["rows"],
                "groups": language["groups"],
                lead["metric"]: score["value"],
                "low": low,
                "high": high,
                "majority": scores["majority"],
            }
        )
    found = (
        f"{lead['metric']} on {split} of {data['task']['name']}: "
        f"{with_interval(lead['average']['models'][0])}, {data['runs'][0]['reads']}"
    )
    show_table(key_of("scores", place.name, split), rows, found)
    show_page(key_of("page", place.name, split), page / RUN_PAGE, f"Page of {place.name}")
    return found
