"""`submit`, `watch`, `jobs` and `cancel`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from semift import show, wire
from semift.app import CANCELLED, JOB_FAILED, OK, JobId, Json, Key, Url, command, interrupted
from semift.client import DEFAULT_URL, Client
from semift.submit import read_order
from semift.submit import submit as submit_order
from semift.watch import Bars, Display, JsonLines, Lines
from semift.watch import watch as follow

ENDED = {"succeeded": OK, "failed": JOB_FAILED, "cancelled": CANCELLED}


@command
def submit(
    job_file: Annotated[
        Path | None, typer.Argument(metavar="[JOB.YAML]", help="Keys: labeled, unlabeled, test, model, …")
    ] = None,
    labeled: Annotated[str | None, typer.Option(help="Path or file id of the labeled rows.")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="Path or file id of the unlabeled rows.")] = None,
    test: Annotated[str | None, typer.Option(help="Path or file id of labeled rows the report is made on.")] = None,
    model: Annotated[str | None, typer.Option(help="Base language model. Default: the server's, where it has one.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the adapter's name.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="A field of the job spec, such as rounds=2.")
    ] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """Upload what is a path, start a job, print its id."""
    flags = {"labeled": labeled, "unlabeled": unlabeled, "test": test, "model": model, "suffix": suffix}
    order = read_order(job_file, flags, sets or [])
    with Client(url, api_key) as client:
        job = submit_order(client, order)
        if watching:
            attach(client, job["id"], as_json)
    if as_json:
        show.emit(dict(job))
    else:
        typer.echo(job["id"])


@command
def watch(job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = "", as_json: Json = False) -> None:
    """Follow a job, one line per stage. Exit code: 0 succeeded, 1 failed, 3 cancelled. ctrl-C leaves it running."""
    with Client(url, api_key) as client:
        attach(client, job_id, as_json)


def attach(client: Client, job_id: str, as_json: bool) -> None:
    """Follows the job and leaves the program with its exit code."""
    display: Display
    if as_json:
        display = JsonLines(sys.stdout)
    elif sys.stdout.isatty():
        display = Bars(show.console())
    else:
        display = Lines(sys.stdout)
    try:
        job = follow(client, job_id, display)
    except KeyboardInterrupt as how:
        other = "" if client.url == DEFAULT_URL else f" --url {client.url}"
        typer.echo(f"\nDetached; the job goes on. Watch it again: semift watch {job_id}{other}", err=True)
        raise typer.Exit(interrupted(how)) from None
    if not as_json:
        conclude(client, job)
    raise typer.Exit(ENDED[job["status"]])


def conclude(client: Client, job: wire.Job) -> None:
    console = show.console()
    told = [f"{event['level']}: {event['message']}" for event in reversed(client.events(job["id"])) if event["level"] != "info"]
    for line in dict.fromkeys(told):  # a job that was taken over may have warned twice
        console.print(line, markup=False)
    if job["status"] == "succeeded":
        console.print(f"adapter: {job['fine_tuned_model']}", markup=False)
        console.print(f"results: semift artifacts {job['id']} --out results", markup=False)
    elif job["error"]:
        console.print(f"{job['status']}: {job['error'].get('message')} ({job['error'].get('code')})", markup=False)
        if hint := job["error"].get("hint"):
            console.print(f"hint: {hint}", markup=False)
    else:
        console.print(job["status"])


@command
def jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with Client(url, api_key) as client:
        found = client.jobs(limit)
    if as_json:
        show.emit(show.listing(found))
        return
    rows = (
        (j["id"], j["status"], f"{j['progress']['percent']:.0f} %", j["phase"], j["model"], show.when(j["created_at"]))
        for j in found
    )
    show.table(show.console(), ("job", "status", "", "phase", "model", "created"), rows)


@command
def cancel(job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = "", as_json: Json = False) -> None:
    """Stop a job. A running one ends within seconds."""
    with Client(url, api_key) as client:
        job = client.cancel(job_id)
    if as_json:
        show.emit(dict(job))
    else:
        typer.echo(f"{job['id']} {'is being cancelled' if job['status'] == 'running' else job['status']}")


@command
def pause(job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = "", as_json: Json = False) -> None:
    """Put a job to rest. A running one finishes its step or chunk and leaves a checkpoint."""
    with Client(url, api_key) as client:
        job = client.pause(job_id)
    show.emit(dict(job)) if as_json else typer.echo(f"{job['id']} {job['status']}")


@command
def resume(job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = "", as_json: Json = False) -> None:
    """Put a paused job back into the queue; it goes on where it was."""
    with Client(url, api_key) as client:
        job = client.resume(job_id)
    show.emit(dict(job)) if as_json else typer.echo(f"{job['id']} {job['status']}")
