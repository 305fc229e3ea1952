"""`samples` and `artifacts`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from semift import show, wire
from semift.app import JobId, Json, Key, Url, command
from semift.client import DEFAULT_URL, Client


@command
def samples(
    job_id: JobId,
    round_number: Annotated[int | None, typer.Option("--round", min=1, help="Default: all rounds.")] = None,
    verdict: Annotated[Literal["selected", "rejected"] | None, typer.Option()] = None,
    order: Annotated[
        wire.SampleOrder, typer.Option(help="position: as uploaded; mean_nll: the most confident first.")
    ] = "position",
    min_mean_nll: Annotated[float | None, typer.Option(help="Nats per token.")] = None,
    max_mean_nll: Annotated[float | None, typer.Option(help="Nats per token.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """Show the pseudo-responses of a job: what was kept or dropped, how sure, and why."""
    bounds: dict[str, Any] = {"min_mean_nll": min_mean_nll, "max_mean_nll": max_mean_nll}
    with Client(url, api_key) as client:
        found = client.samples(job_id, limit, round=round_number, verdict=verdict, order=order, **bounds)
    if as_json:
        show.emit(show.listing(found))
        return
    columns = ("round", "id", "verdict", "reason", "pseudo-label", "mean_nll", "agreement", "prompt")
    rows = (
        (s["round"], s["query_id"], s["verdict"], s["reason"], show.short(s["pseudo_label"] or "–", 24), _number(s["mean_nll"]),
         f"{s['agreement']:.2f}", show.short(s["prompt"]))
        for s in found
    )  # fmt: skip
    show.table(show.console(), columns, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@command
def artifacts(
    job_id: JobId,
    out: Annotated[Path | None, typer.Option(help="Download into this folder, checking each file's sha256.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """List the results of a job, or download them."""
    with Client(url, api_key) as client:
        found = client.artifacts(job_id)
        for artifact in found if out else ():
            client.download(job_id, artifact, out or Path())
            if not as_json:
                typer.echo(f"{(out or Path()) / artifact['path']}")
    if as_json:
        show.emit(show.listing(found))
    elif not out:
        show.table(show.console(), ("path", "size", "sha256"), ((a["path"], show.size(a["bytes"]), a["sha256"]) for a in found))
