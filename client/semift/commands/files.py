"""`validate` and `upload`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semift import show
from semift.app import BAD_INPUT, OK, Json, Key, Url, command
from semift.client import DEFAULT_URL, Client
from semift.submit import existing


@command
def validate(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV, TSV or Parquet.")],
    role: Annotated[Literal["labeled", "unlabeled"] | None, typer.Option(help="labeled: every row needs a target.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """Have the server read a local file and show every finding. Nothing stays there. Exit code 2: the file has errors."""
    with Client(url, api_key) as client:
        uploaded = client.upload(existing(str(file)), dataset={"role": role} if role else None)
        try:
            client.wait_read(uploaded)
            report = client.validation(uploaded["id"])
        finally:
            client.delete_file(uploaded["id"])
    if as_json:
        show.emit(dict(report))
    else:
        show.validation(show.console(), str(file), report)
    raise typer.Exit(OK if report["status"] == "ok" else BAD_INPUT)


@command
def upload(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV, TSV or Parquet.")],
    purpose: Annotated[str, typer.Option(help="As OpenAI names it.")] = "fine-tune",
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """Upload a file and print its id. Exit code 2: the file has errors (it stays, see `GET /v1/files/ID/validation`)."""
    with Client(url, api_key) as client:
        uploaded = client.wait_read(client.upload(existing(str(file)), purpose))
    if as_json:
        show.emit(dict(uploaded))
    else:
        typer.echo(uploaded["id"])
        if uploaded["status"] == "error":
            typer.echo(uploaded["status_details"] or "The file has errors.", err=True)
    raise typer.Exit(BAD_INPUT if uploaded["status"] == "error" else OK)
