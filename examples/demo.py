"""make demo: a service on this machine, two uploads, one job, its report. Nothing is left running.

python examples/demo.py            the whole thing, at most five minutes on two cores
python examples/demo.py --short    the same path on few rows: it shows that everything runs, not that it helps
"""

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "banking77"
HOME = ROOT / ".semift" / "demo"
SEMIFT = str(Path(sys.executable).parent / "semift")
KEY_FILE = HOME / "data" / "api-key"  # written by the server, readable by its owner alone
READY_SECONDS = 240  # of a machine that is slow or stands still
SHORT_ROWS = {"labeled.csv": 60, "unlabeled.csv": 48, "test.csv": 48}
SHORT_SETS = ("warmup.n_epochs=2", "evolve.n_epochs=1", "evaluation.with_neighbours=false")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    HOME.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with server() as url:
        say(f"server up at {url}, its data in {HOME.relative_to(ROOT)}")
        order, flags = (shortened(), [part for item in SHORT_SETS for part in ("--set", item)]) if short else (DATA, [])
        say(f"$ semift submit {(order / 'job.yaml').relative_to(ROOT)} --watch")
        job = semift("submit", str(order / "job.yaml"), *flags, "--url", url).strip()
        code = subprocess.run([SEMIFT, "watch", job, "--url", url], check=False).returncode
        if code != 0:
            sys.stderr.write(f"The job did not succeed; the server's log: {HOME / 'server.log'}\n")
            return code
        results = HOME / "results" / job
        semift("artifacts", job, "--out", str(results), "--url", url)
    report = json.loads(next(results.rglob("report.json")).read_text(encoding="utf-8"))
    table(report)
    say(f"{time.monotonic() - started:.0f} s in all. The server is stopped; nothing is left running.")
    epilogue(job, results)
    return 0


@contextmanager
def server() -> Iterator[str]:
    """`semift up` as a child on a free port; its output goes to a log. Stopped at the end, whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (HOME / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [SEMIFT, "up", "--data-dir", str(HOME / "data"), "--port", str(port)], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            wait_ready(url, child)
            os.environ["SEMIFT_API_KEY"] = KEY_FILE.read_text(encoding="ascii").strip()  # for the commands below
            yield url
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(timeout=120)


def wait_ready(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=60):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SystemExit(f"The server did not come up; its log: {HOME / 'server.log'}")


def semift(*arguments: str) -> str:
    done = subprocess.run([SEMIFT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, env=os.environ)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout


def shortened() -> Path:
    """The demo's files cut to a few rows, with its job beside them."""
    folder = HOME / "short"
    folder.mkdir(exist_ok=True)
    for name, count in SHORT_ROWS.items():
        with (DATA / name).open(newline="", encoding="utf-8") as source, (folder / name).open("w", newline="") as target:
            head, *rows = csv.reader(source)
            csv.writer(target, lineterminator="\n").writerows([head, *rows[:count]])
    (folder / "job.yaml").write_text((DATA / "job.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def table(report: dict[str, Any]) -> None:
    """Every arm on the same held-out rows, the ones that win over ours too."""
    against = {row["against"]: row for row in report["comparisons"]}
    say(f"\n{'arm':<44} {'accuracy':>8}   {'95 % interval':<14} evolved minus this arm")
    for arm in report["arms"]:
        low, high = (100 * bound for bound in arm["interval"])
        row = against.get(arm["name"])
        gap = f"{100 * row['difference']:+.1f} ± {100 * row['half_width']:.1f}" if row else ""
        say(f"{arm['title']:<44} {100 * arm['accuracy']:>7.1f}%   {low:.1f} to {high:.1f}   {gap}")
    say(f"\n{report['summary']}")
    controls = [row for name in ("labels_only_early", "labels_only_matched") if (row := against.get(name))]
    above = [row for row in controls if row["difference"] > 0]
    shown = [row for row in above if row["difference"] > row["half_width"]]
    if controls:
        rest = f"{len(above)} of {len(controls)} labels-only arms on these rows, {len(shown)} of them by more than the interval"
        say(f"Evolved is above {rest}.")
    for arm in report["arms"]:
        row = against.get(arm["name"])
        if row and row["difference"] < 0:
            say(f"Note: {arm['title']} scores higher than evolved here.")


def epilogue(job: str, results: Path) -> None:
    shown = results.relative_to(ROOT)
    files = sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())
    say(f"\nResults in {shown}: {', '.join(files)}")
    say(
        f"""
Again, by hand. Start the server:            make serve ARGS="--data-dir .semift/demo/data"
The job and its samples, by curl:            export OPENAI_API_KEY="$(cat {KEY_FILE.relative_to(ROOT)})"
    curl -H "Authorization: Bearer $OPENAI_API_KEY" http://127.0.0.1:8642/v1/fine_tuning/jobs/{job}
    curl -H "Authorization: Bearer $OPENAI_API_KEY" "http://127.0.0.1:8642/v1/fine_tuning/jobs/{job}/samples?verdict=rejected"
The same API with the stock openai client:
    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8642/v1")  # it reads OPENAI_API_KEY
    files = [client.files.create(file=open(f"examples/banking77/{{n}}.csv", "rb"), purpose="fine-tune").id
             for n in ("labeled", "unlabeled", "test")]
    job = client.fine_tuning.jobs.create(model="semift-small", training_file=files[0], method={{"type": "semi_supervised",
        "semi_supervised": {{"unlabeled_file": files[1], "test_file": files[2]}}}})"""
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
