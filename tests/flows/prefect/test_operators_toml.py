"""operators.toml and the table of deployments."""

import contextlib
import dataclasses
import re
from collections import deque

import pytest
from file_server import FileServer, status
from job_world import write_record
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule

from mswitch.flows.cli.main import main
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.record import Record
from mswitch.flows.prefect.deploy import serve
from mswitch.flows.prefect.deploy.apply import deploy
from mswitch.flows.prefect.deploy.deployments import (
    DEPLOYMENTS,
    find_further,
    list_schedules,
    list_tags,
    make_job_variables,
)
from mswitch.flows.prefect.flows import refresh as refresh_flow
from mswitch.flows.prefect.flows.refresh import find_previous_pair
from mswitch.flows.prefect.form_defaults import RefreshSettings
from mswitch.flows.prefect.operators_toml import (
    VARIABLE,
    Operators,
    make_deployment_path,
    read_operators,
)
from mswitch.pipelines.errors import UserError


def written(tmp_path, text):
    path = tmp_path / "operators.toml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def _no_file_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_a_file_everything_has_its_default(tmp_path):
    operators = read_operators()

    assert operators.server.host == "127.0.0.1"
    assert operators.storage == tmp_path / "runs"
    assert operators.find_launcher("local").profile == {"launcher": "local"}


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    path = written(tmp_path, 'storage = "out"')
    monkeypatch.chdir("/")
    monkeypatch.setenv(VARIABLE, str(path))

    assert read_operators().locate_directory("pairs", "a") == tmp_path / "out" / "pairs" / "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storrage = 'x'", "storrage: there is no such setting"),
        ("server = 'nowhere'", "server: must be a valid URL"),
        ("flow_runs = 0", "flow_runs: must be greater than or equal to 1, and is 0"),
        ("storage = 'gs://bucket/x'", "storage: gs://bucket/x is remote"),
        ("bucket = '/srv'", "bucket: must match pattern"),
        ("[launchers.gpu]\nlauncher = 'nothing'", "[launchers.gpu] of operators.toml has a wrong"),
        ("[launchers.gpu]\nlauncher = 'local'\nchips = 3", "[launchers.gpu] of operators.toml has"),
        (
            "[launchers.gke]\nlauncher = 'kubernetes'\ncontext = 'a'\nvolumes = {'/srv' = 'b'}",
            "[launchers.gke] of operators.toml: image: is missing, add it",
        ),
        (
            "[launchers.gke]\nlauncher = 'kubernetes'\ncontext = 'a'\nvolumes = {'b' = '/srv'}\n"
            "image = 'c'",
            "[launchers.gke] of operators.toml: volumes: 'b' is not a mount path",
        ),
        ("[evaluations]\nlocal = 'cpu'", "unknown launcher 'cpu': choose among local"),
        ("[launchers.'../x']\nlauncher = 'local'", "launchers.../x"),
        ("[dataflow]\nstorage = '/srv'\noptions = []", "dataflow.storage: must match"),
        ("[dataflow]\nstorage = 'gs://b'\noptions = ['x']", "dataflow.options.0: must match"),
        ("[prices.gpu]\nhost_hour = 1", "unknown launcher 'gpu'"),
        (
            "[prices.local]\nhost_hour = 0",
            "prices.local.host_hour: must be greater than 0, and is 0",
        ),
        ("[prices.local]\nchips = 2", "give one of host_hour and chip_hour"),
        ("[prices.local]\nhost_hour = 1\nchip_hour = 1", "give one of host_hour and chip_hour"),
        ("[prices.local]\nchip_hour = 1\nchip = 'abacus'", "chip 'abacus' is unknown: choose"),
        ("x = = 3", "cannot read"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(text, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_operators(written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_examples_and_runs_go_to_the_bucket_and_are_found_where_they_were_made(tmp_path):
    here = Operators(storage=tmp_path)
    there = Operators(storage=tmp_path, bucket="s3://b/mswitch/")
    place = there.locate_directory("pairs", "a", "mt5-tiny")
    assert here.choose_destination(place) == place
    assert there.choose_destination(place) == "s3://b/mswitch/pairs/a/mt5-tiny"
    assert there.locate_output("pairs", "a", "mt5-tiny") == place
    job = Job(("train",), there.choose_destination(place), record=place)
    write_record(Record(job, {"launcher": "local"}))
    assert here.locate_output("pairs", "a", "mt5-tiny") == job.out
    with pytest.raises(UserError, match="cannot be the name of a run"):
        there.locate_directory("pairs", "a", "../b")


ASKED = '[schedules."append-crawl-monthly"]\ncron = "0 5 1 * *"\n'


def deployed(name: str, operators: Operators, *present: tuple[str, bool, str | None]):
    """The schedules of a deployment after one of these, as (cron, active, slug)."""
    [deployment] = [one for one in DEPLOYMENTS if one.name == name]
    there = [
        DeploymentSchedule(schedule=CronSchedule(cron=cron), active=active, slug=slug)
        for cron, active, slug in present
    ]
    made = list_schedules(deployment, operators, there)
    return [(one.schedule.cron, one.active, one.slug) for one in made]


def test_schedules_are_inactive_unless_asked_for(tmp_path):
    monthly = "append-crawl-monthly"
    assert deployed(monthly, Operators()) == [("0 6 5 * *", False, "mswitch")]
    assert deployed("reconcile-all", Operators()) == [("*/2 * * * *", True, "mswitch")]
    active = [one.name for one in DEPLOYMENTS if one.schedule and one.schedule.active]
    assert active == ["reconcile-all"]
    asked = read_operators(written(tmp_path, ASKED))
    assert deployed(monthly, asked) == [("0 5 1 * *", False, "operators-toml")]
    asked = read_operators(written(tmp_path, f"{ASKED}active = true"))
    assert deployed(monthly, asked) == [("0 5 1 * *", True, "operators-toml")]
    # As the reconciler always was, though the table says nothing of it.
    often = read_operators(written(tmp_path, '[schedules.reconcile-all]\ncron = "* * * * *"'))
    assert deployed("reconcile-all", often) == [("* * * * *", True, "operators-toml")]


def test_schedules_that_a_person_set_stay_unless_the_file_says_otherwise(tmp_path):
    silent = Operators()
    asked = read_operators(written(tmp_path, ASKED))
    off = read_operators(written(tmp_path, f"{ASKED}active = false"))
    monthly, pair = "append-crawl-monthly", "pretrain-pair-base"
    clicked = [("0 6 5 * *", True, "mswitch"), ("0 3 * * *", True, None)]

    assert deployed(monthly, silent, *clicked) == clicked
    assert deployed(pair, silent, clicked[1]) == [clicked[1]]
    # The file's takes the place of mswitch's own, and of none that a person added.
    given = ("0 5 1 * *", True, "operators-toml")
    for order in (clicked, clicked[::-1]):
        assert deployed(monthly, asked, *order) == [given, clicked[1]]
    assert deployed(monthly, asked, given) == [given]
    assert deployed(monthly, off, given) == [("0 5 1 * *", False, "operators-toml")]
    # Once it is out of the file, it goes.
    assert deployed(monthly, silent, given) == [("0 6 5 * *", False, "mswitch")]
    assert deployed(monthly, silent, given, clicked[1]) == [clicked[1]]
    assert deployed(pair, silent, given) == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nightly", 'cron = "0 5 1 * *"', r"'nightly'.* names no deployment: choose among corpus-"),
        (
            "report-pair",
            'cron = "61 5 * * *"',
            r"operators.toml: cron = '61 5 \* \* \*' is not valid",
        ),
        ("report-pair", 'cron = "0 5 * * *"\ntimezone = "Mars"', "timezone = 'Mars' is not valid"),
    ],
)
def test_a_wrong_schedule_is_refused(name, settings, message, tmp_path):
    operators = read_operators(written(tmp_path, f'[schedules."{name}"]\n{settings}'))
    with pytest.raises(UserError, match=message) as refused:
        deploy(operators, None, write=False)
    assert "\n" not in str(refused.value)


def test_a_server_that_does_not_answer_is_one_line(tmp_path, capsys):
    path = written(tmp_path, 'server = "http://127.0.0.1:9/api"')

    assert main(["deploy", "--operators", str(path)]) == 2

    assert "the Prefect server http://127.0.0.1:9/api does not answer" in capsys.readouterr().err


def test_a_server_that_asks_for_a_password_is_one_line(tmp_path, capsys):
    with FileServer() as server:
        server.moods.default_factory = lambda: deque([status(401)] * 9)
        path = written(tmp_path, f'server = "{server.url}/api"')
        assert main(["deploy", "--operators", str(path)]) == 2

    error = capsys.readouterr().err
    assert "requires a password: set PREFECT_API_AUTH_STRING in" in error
    assert "Traceback" not in error


def test_options_that_exclude_each_other(capsys):
    assert main(["deploy", "--check", "--serve"]) == 2
    assert "--dry-run, --check and --serve exclude each other" in capsys.readouterr().err


def test_an_exported_address_does_not_lead_elsewhere(monkeypatch):
    """Server and worker of `deploy --serve` have the address that deployments are written to."""
    given: dict[str, str] = {}
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere.test/api")
    monkeypatch.setattr(serve.subprocess, "Popen", lambda words, env: given.update(env))
    serve._start_prefect(Operators(), "worker", "start")
    assert given["PREFECT_API_URL"] == str(Operators().server)


def test_a_deployment_has_owner_tags_and_environment(tmp_path):
    text = '[deployments."report-pair"]\nowner = "ana"\ntags = ["x"]\nenvironment = {A = "1"}'
    operators = read_operators(written(tmp_path, text))
    pair, *_ = [one for one in DEPLOYMENTS if one.name == "report-pair"]
    assert list_tags(pair, operators) == ["mswitch", "owner:ana", "x"]
    given = make_job_variables(None, find_further(pair, operators))["env"]
    assert given == make_job_variables(None)["env"] | {"A": "1"}
    wrong = read_operators(written(tmp_path, '[deployments."report"]\nowner = "ana"'))
    with pytest.raises(UserError, match=r"'report'.* names no deployment: choose among corpus-"):
        deploy(wrong, None, write=False)


def test_pages_are_linked_where_they_are_served(tmp_path):
    page = tmp_path / "runs" / "pairs" / "a b" / "report.html"
    assert read_operators().make_link(page) == f"`{page}`"
    served = read_operators(written(tmp_path, 'pages = "http://pages.example:4280"'))
    assert served.make_link(page) == (
        "[pairs/a b/report.html](http://pages.example:4280/pairs/a%20b/report.html)"
    )
    assert served.make_link(tmp_path / "elsewhere.html") == f"`{tmp_path}/elsewhere.html`"


def test_a_deployment_is_found_by_its_name():
    assert make_deployment_path("append-crawl-monthly") == "append-crawl/append-crawl-monthly"
    assert make_deployment_path("mine/own") == "mine/own"
    for one in DEPLOYMENTS:
        assert make_deployment_path(one.name) == f"{one.flow.name}/{one.name}"


@pytest.mark.parametrize("name", ["{date}", "mc4-{dump}_{date}", "a"])
def test_names_of_a_refresh_may_hold_fields(name):
    assert RefreshSettings(examples=name).examples == name


def previous(tmp_path, template: str, name: str, *finished: str) -> str:
    for pair in finished:
        (tmp_path / "pairs" / pair / "report").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pairs" / pair / "report" / "_COMPLETED").touch()
    return find_previous_pair(tmp_path, template, name)


def test_a_night_begins_with_the_pair_before_it(tmp_path):
    assert previous(tmp_path, "base-{date}", "base-2026-03-02") == ""
    there = ("base-2026-03-01", "base-2026-02-28", "base-2026-03-02", "base-2026-03-03", "base-0")
    assert previous(tmp_path, "base-{date}", "base-2026-03-02", *there) == "base-2026-03-01"
    assert previous(tmp_path, "base-{date}", "base-2026-02-28") == ""
    (tmp_path / "pairs" / "base-2026-03-04").mkdir()  # it did not finish
    assert previous(tmp_path, "base-{date}", "base-2026-03-05") == "base-2026-03-03"
    dumps = ("base.CC-MAIN-2024-10", "base.CC-MAIN-2024-18", "baseXCC-MAIN-2024-11")
    found = previous(tmp_path, "base.{dump}", "base.CC-MAIN-2024-22", *dumps)
    assert found == "base.CC-MAIN-2024-18"


@pytest.mark.parametrize(
    ("pair", "examples", "refused"),
    [
        ({"begin_with": "{previous}"}, {}, True),
        ({"begin_with": "base"}, {"vocabulary_file": ""}, True),
        ({"begin_with": "base"}, {"vocabulary_file": "mt5.model"}, False),
        ({}, {}, False),
    ],
)
def test_a_chain_of_nights_needs_one_vocabulary(pair, examples, refused, monkeypatch):
    monkeypatch.setattr(refresh_flow, "_read_parameters", lambda _: {"steps": 3})
    settings = RefreshSettings(pair_parameters=pair, examples_parameters=examples)
    expected = pytest.raises(UserError, match="give vocabulary_file in examples_parameters")
    with expected if refused else contextlib.nullcontext():
        refresh_flow.check_vocabulary_stays._task.fn.__wrapped__(settings)
    alone = dataclasses.replace(settings, examples_deployment="none")
    refresh_flow.check_vocabulary_stays._task.fn.__wrapped__(alone)


def test_a_wrong_refresh_is_refused():
    with pytest.raises(UserError, match=r"no dump to name: use \{date\}"):
        RefreshSettings(inputs=("a/{date}/*.gz",), examples="a-{date}")
    assert RefreshSettings(inputs=("a/*.gz",), examples="a-{date}", pair="b-{date}").inputs
    with pytest.raises(UserError, match="timezone 'Mars' is unknown: give one like Europe/Berlin"):
        RefreshSettings(timezone="Mars")
