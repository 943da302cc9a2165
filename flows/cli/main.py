"""The entry point of `mswitch`: exit codes and readable errors."""

import os
import sys
from collections.abc import Sequence

from mswitch.flows.cli.interrupts import end_on_interrupt
from mswitch.pipelines.errors import UserError, as_user_error, printable
from mswitch.pipelines.exit_codes import DEFECT, USER_ERROR
from mswitch.pipelines.garbage import collect_rarely


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit code.

    A UserError, or an error like it, such as a full disk, becomes one line on standard error and
    exit code 2. Any other exception is a defect of mswitch and keeps its traceback.
    """
    if os.environ.get("MSWITCH_LIFELINE"):
        from mswitch.models.lifeline import exit_with_parent

        exit_with_parent()
    if argv is None:
        collect_rarely()
        end_on_interrupt()
    try:
        from mswitch.flows.cli.app import run

        code = run(list(sys.argv[1:] if argv is None else argv))
        print(end="", flush=True)  # an error of standard output is raised here, and reported below
        return code
    except BrokenPipeError:
        _discard_output()
        return DEFECT
    except Exception as error:
        output = explain_output_error()
        of_output = output if isinstance(error, OSError) else None
        readable = explain_missing_part(error) or of_output or as_user_error(error)
        if readable is None:
            raise
        print(f"mswitch: {printable(str(readable))}", file=sys.stderr)
        return USER_ERROR


def explain_output_error() -> UserError | None:
    """Explain why standard output fails, and discard further output; return None if it works."""
    try:
        print(end="", flush=True)
    except OSError as error:
        _discard_output()
        return UserError(f"cannot write to standard output: {error.strerror}")
    return None


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain_missing_part(error: Exception) -> UserError | None:
    """Explain an import that failed because an extra is not installed."""
    missing = error.__cause__ if type(error) is ImportError else error
    if not isinstance(missing, ModuleNotFoundError):
        return None
    name = (missing.name or "").partition(".")[0]
    if name == "mswitch":
        return None
    from mswitch.flows.cli.doctor_checks import find_extra

    extra = find_extra(name)
    how = f"pip install 'mswitch[{extra}]' brings it" if extra else "`pip check` says what needs it"
    return UserError(f"the module {name} is not installed: {how}")


if __name__ == "__main__":
    sys.exit(main())
