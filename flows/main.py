"""Entry point of the `mswitch` command: exit codes, readable errors, `python -m flows.main`."""

import os
import sys
from collections.abc import Sequence

from flows import huge_pages
from pipelines.errors import UserError, as_user_error
from pipelines.garbage import collect_rarely

OWN_PACKAGES = ("pipelines", "tasks", "models", "flows")
EXIT_DEFECT = 1
EXIT_USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit code.

    A UserError (and what amounts to one, such as a full disk) becomes one line on standard
    error and exit code 2. Anything else is a defect of ours and keeps its traceback.
    """
    if argv is None and sys.argv[1:2] and sys.argv[1] in huge_pages.COMMANDS:
        huge_pages.restart_with_huge_pages()
    if os.environ.get("MSWITCH_LIFELINE") == "1":
        from models.lifeline import exit_with_parent

        exit_with_parent()
    if argv is None:
        collect_rarely()
    try:
        from flows.cli import run

        return run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print("mswitch: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DEFECT
    except Exception as error:
        readable = missing_part(error) or as_user_error(error)
        if readable is None:
            raise
        print(f"mswitch: {readable}", file=sys.stderr)
        return EXIT_USER_ERROR


def missing_part(error: Exception) -> UserError | None:
    """Explain an import that failed because an extra is not installed."""
    missing = error.__cause__ if type(error) is ImportError else error
    if not isinstance(missing, ModuleNotFoundError):
        return None
    name = (missing.name or "").partition(".")[0]
    if name in OWN_PACKAGES:
        return None
    return UserError(
        f"the module {name} is not installed: pip install 'mswitch[train,flows]' brings it "
        "(`mswitch doctor` lists what is missing)"
    )


if __name__ == "__main__":
    sys.exit(main())
