"""Declare a pipeline stage once: its function also defines its command, job and Prefect form.

    @stage(app, "vocab train", makes="vocabularies", reads={"corpus": "corpora"})
    def train(*, corpus: str, out: str, config: VocabularyConfig = VocabularyConfig()) -> Summary:
        '''Train a unigram model on language-balanced text.'''
        return train_vocabulary(corpus, out, config)

Its parameters become the options of its command, the arguments of its job, and the fields of its
form in Prefect. A parameter whose default is a dataclass is a configuration: its fields are
options.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import App, Parameter

from mswitch.flows.child_processes import is_supervised, supervise_in_job
from mswitch.flows.jobs.command import split_beam_options
from mswitch.flows.jobs.job import Job
from mswitch.flows.stages.common import (
    Cancel,
    Json,
    check_beam_options,
    end_on_dataflow,
    finish,
    print_result,
)
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.storage import is_remote, join

#: Summary of a stage's result; or the summary and a text for people.
Summary = Mapping[str, Any] | tuple[Mapping[str, Any], str]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step of the pipeline that users run as a command, as a job or from a web form.

    Attributes:
        name: words of its command.
        function: function that runs it. It imports modules that load slowly by itself.
        makes: kind of its output: a directory below the storage of all runs.
        reads: kinds of its inputs, by option.
        output: option that names its output.
        part: directory that it adds to a run, if `output` names a run. It has no marker.
        marked: whether another finished output has a marker.
        accelerator: whether it computes with JAX, so that it never runs inside a flow's process.
    """

    name: str
    function: Callable[..., Summary]
    makes: str = ""
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output: str = "out"
    part: str = ""
    marked: bool = True
    accelerator: bool = False

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Parameters of the function, with resolved annotations."""
        hints = get_type_hints(self.function, include_extras=True)
        declared = inspect.signature(self.function).parameters
        return {
            name: parameter.replace(annotation=hints[name]) for name, parameter in declared.items()
        }

    def run(self, **values: Any) -> dict[str, Any]:
        """Run the function; return the summary of its result."""
        result = self.function(**values)
        return dict(result[0] if isinstance(result, tuple) else result)

    def argv(self, *beam_options: str, **values: Any) -> tuple[str, ...]:
        """Return the command line, without options at their defaults; each option is one word."""
        words = self.name.split()
        for name, parameter in self.parameters.items():
            value = values.pop(name, parameter.default)
            if dataclasses.is_dataclass(value):
                words += list_options(value)
            elif value != parameter.default and parameter.kind != parameter.VAR_POSITIONAL:
                words += _format_option(name.strip("_").replace("_", "-"), value)
        if values:
            raise TypeError(f"{self.name} has no {', '.join(values)}")
        return (*words, *(("--", *beam_options) if beam_options else ()))

    def job(
        self, *beam_options: str, hosts: int = 1, record: Path | None = None, **values: Any
    ) -> Job:
        """Return the job that makes an output.

        `values` are those of the parameters. `hosts` is `Job.hosts`. `record` is `Job.record`, or
        that of the run if the stage adds a part to one.
        """
        return self.make_job(self.argv(*beam_options, **values), values[self.output], hosts, record)

    def make_job(
        self, argv: Sequence[str], output: Path | str, hosts: int = 1, record: Path | None = None
    ) -> Job:
        """Return the job of a command line."""
        out = str(output) if is_remote(output) else Path(output)
        # The marker of an existing output does not show whether an addition to it is finished.
        marked = self.marked and not {"--append", "--unfinished"} & set(argv)
        if self.part:
            out = join(out, self.part) if isinstance(out, str) else out / self.part
            record, marked = record and record / self.part, False
        return Job(tuple(argv), out, marked=marked, hosts=hosts, record=record)

    def command(self) -> Callable[..., int]:
        """Return a CLI command that runs the stage's function and prints the result's summary."""
        on_beam = "runner" in self.parameters

        @functools.wraps(self.function)
        def command(*words: str, json: bool = False, **values: Any) -> int:
            job = values.get("job")
            if job is not None and job.shared and not is_supervised(self.name.split()[0]):
                return supervise_in_job(sys.argv[1:])
            if on_beam:
                check_beam_options(words)
            if values.pop("cancel", False):
                return end_on_dataflow(values["out"], values.get("runner", "local"), words, json)
            result = self.function(*words, **values)
            return (
                print_result(*result, json) if isinstance(result, tuple) else finish(result, json)
            )

        parameters = [
            parameter.replace(annotation=_find_option_type(parameter))
            for parameter in self.parameters.values()
        ]
        own = {"cancel": Cancel} if on_beam else {}
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for name, kind in {**own, "json": Json}.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command


def stage(app: App, name: str, **attributes: Any) -> Callable[[Callable[..., Summary]], Stage]:
    """Declare a stage by a function, and add its command to an application.

    Args:
        app: the command itself, or the group that contains it.
        name: `Stage.name`.
        attributes: further attributes of the stage.
    """

    def declare(function: Callable[..., Summary]) -> Stage:
        made = Stage(name, function, **attributes)
        last = name.rsplit(maxsplit=1)[-1]
        if last == app.name[0]:
            app.default(made.command())
        else:
            app.command(made.command(), name=last)
        return made

    return declare


def make_command_job(argv: Sequence[str], hosts: int = 1, record: Path | None = None) -> Job:
    """Make the job of a command line, `["train", "--preset", ..., "--out", "run"]`.

    The output of an evaluation is `eval` in its run, so that it can run beside the training; that
    of predictions is `predictions`. `hosts` is `Job.hosts`. `record` is `Job.record`, or that of
    the run if the command adds a part to one.
    """
    made = _find_stage(argv)
    if hosts > 1 and "--distributed" not in argv:
        raise UserError(
            f"--hosts {hosts}: give --distributed to {made.name!r} too, so that hosts connect"
        )
    own, _ = split_beam_options(argv)
    option = f"--{made.output}"
    outputs = [after for word, after in itertools.pairwise(own) if word == option]
    outputs += [word.partition("=")[2] for word in own if word.startswith(f"{option}=")]
    if not outputs or not outputs[-1]:
        raise UserError(
            f"a job needs an output directory: give {option} to {made.name!r} too, or run a "
            "command that has none without `mswitch jobs submit`"
        )
    return made.make_job(argv, outputs[-1], hosts, record)


def _find_stage(argv: Sequence[str]) -> Stage:
    """Return a command line's stage, or a generic `Stage` for any other command."""
    name = argv[0] if argv else ""
    try:
        module = importlib.import_module(f"mswitch.flows.stages.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("mswitch.flows.stages"):
            raise  # a package that the stage needs is not installed
        return Stage(name, dict, marked=False)
    stages = [stage for stage in vars(module).values() if isinstance(stage, Stage)]
    matching = [
        stage for stage in stages if stage.name.split() == list(argv[: len(stage.name.split())])
    ]
    return max(matching, key=lambda stage: len(stage.name), default=Stage(name, dict, marked=False))


def _find_option_type(parameter: inspect.Parameter) -> Any:
    kind = parameter.annotation
    if dataclasses.is_dataclass(parameter.default):
        return Annotated[kind, Parameter(name="*", consume_multiple=True)]
    if parameter.default is False:
        return Annotated[kind, Parameter(negative="")]
    if parameter.name.endswith("_"):
        return Annotated[kind, Parameter(name=f"--{parameter.name.strip('_')}")]
    return kind


def list_options(config: Any, prefix: str = "") -> list[str]:
    """Return the command-line options for settings that differ from their defaults."""
    words = []
    for field in dataclasses.fields(config):
        value, name = read_value(config, field), f"{prefix}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += list_options(value, f"{name}.")
        elif value != field.default:
            words += _format_option(name, value)
    return words


def _format_option(name: str, value: Any) -> list[str]:
    """Return an option as words such as `--name=value`, so no value looks like an option."""
    if isinstance(value, bool):
        stem, _, leaf = name.rpartition(".")
        return [f"--{stem}{'.' if stem else ''}{'' if value else 'no-'}{leaf}"]
    if isinstance(value, tuple | list):
        return [f"--{name}={part}" for part in value]
    return [f"--{name}={value}"]


def read_value(config: Any, field: dataclasses.Field[Any]) -> Any:
    """Return a field's value, or None if the class computed the value from other fields."""
    value = getattr(config, field.name)
    if field.default is None and value is not None:
        without = dataclasses.replace(config, **{field.name: None})
        return None if without == config else value
    return value
