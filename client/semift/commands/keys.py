"""`keys`: the server's own command, which works on its database."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from semift import up
from semift.app import command

DATA_DIR = "--data-dir"


@partial(command, context={"allow_interspersed_args": False})  # what follows the first word is not for us
def keys(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="create|list|revoke", help="`semift keys create --help` has the options.", show_default=False),
    ] = None,
) -> None:
    """Make, list and revoke API keys in the database of the settings (SEMIFT_DATABASE_URL), from the server's checkout."""
    given = arguments or ["--help"]
    before = [None, *given]
    up.become("api.keys", *(_here(part, after=last) for part, last in zip(given, before, strict=False)))


def _here(part: str, after: str | None) -> str:
    """A folder as it is seen from here: the command runs in the checkout."""
    if after == DATA_DIR:
        return str(Path(part).resolve())
    name, equals, value = part.partition("=")
    return f"{name}={Path(value).resolve()}" if name == DATA_DIR and equals else part
