"""The command line's frame: the app, what all commands share, and how failures become exit codes."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer

from semift import show
from semift.errors import ApiError, SemiftError, Unreachable
from semift.submit import FileRefused

OK, JOB_FAILED, BAD_INPUT, CANCELLED, UNREACHABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

EPILOG = (
    "Exit codes: 0 ok; 1 the job failed (doctor: the server is not ready); 2 wrong usage or bad input; "
    "3 the job was cancelled; 4 the server cannot be reached or cannot serve; 130 ctrl-C: watching ends, the job goes on; "
    "143 the same, by SIGTERM."
)
app = typer.Typer(
    help="Fine-tune with few labels and many unlabeled rows, on a Semift server.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Option(envvar="SEMIFT_URL", help="The server.")]
Key = Annotated[str, typer.Option(envvar="SEMIFT_API_KEY", help="API key; of a server on this machine it is found by itself.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of tables.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Job id (ftjob-…).")]
P = ParamSpec("P")


class Ended(KeyboardInterrupt):
    """SIGTERM: ctrl-C from a program."""


def interrupted(how: KeyboardInterrupt) -> int:
    """The exit code."""
    return TERMINATED if isinstance(how, Ended) else INTERRUPTED


def command(function: Callable[P, None], context: dict[str, Any] | None = None) -> Callable[P, None]:
    """Registers a command, named as the function, whose failures become messages and the exit codes of EPILOG."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            function(*args, **kwargs)
        except SemiftError as failure:
            if isinstance(failure, FileRefused) and not as_json:
                show.validation(show.console(stderr=True), str(failure.path), failure.validation)
            show.error(failure, as_json)
            away = isinstance(failure, Unreachable) or (isinstance(failure, ApiError) and failure.status >= 500)
            raise typer.Exit(UNREACHABLE if away else BAD_INPUT) from None
        except KeyboardInterrupt as how:
            raise typer.Exit(interrupted(how)) from None

    return app.command(function.__name__.rstrip("_"), epilog=EPILOG, context_settings=context)(guarded)
