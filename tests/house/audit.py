"""`python -m tests.house.audit`: known vulnerabilities of everything that is locked, where the advisory data can be reached.

Without them (no network, a mirror that has packages but no advisories) it says so and fails nothing.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "dev.lock"
SECONDS = 120
# Advisory -> why it does not concern us. Looked at again with every new lock.
ACCEPTED: Mapping[str, str] = {}


class Verdict(NamedTuple):
    status: int
    text: str


def main(command: Sequence[str] = (sys.executable, "-m", "pip_audit")) -> Verdict:
    asked = [*command, "-r", str(LOCK), "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run([*asked, "--format", "json"], capture_output=True, text=True, timeout=SECONDS, check=False)
        return verdict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return Verdict(0, f"pip-audit: not done, no answer within {SECONDS} s")
    except ValueError:
        return Verdict(0, f"pip-audit: not done, {last_line(done.stderr)}")


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Of pip-audit's JSON report. Status 1 for an advisory that is not in ACCEPTED."""
    packages = report["dependencies"]
    looked_up = [package for package in packages if "vulns" in package]
    found = [
        f"{package['name']} {package['version']}: {advisory['id']}: fixed in {', '.join(advisory['fix_versions']) or 'none'}"
        for package in looked_up
        for advisory in package["vulns"]
        if not ACCEPTED.keys() & {advisory["id"], *advisory["aliases"]}
    ]
    if found:
        return Verdict(1, "\n".join(["pip-audit: known vulnerabilities", *found]))
    if not looked_up:
        reasons = sorted({package["skip_reason"].partition(":")[0] for package in packages if package.get("skip_reason")})
        return Verdict(0, f"pip-audit: not done, the advisory data cannot be reached ({'; '.join(reasons) or 'nothing found'})")
    missed = f"; {len(packages) - len(looked_up)} could not be looked up" if len(looked_up) < len(packages) else ""
    return Verdict(0, f"pip-audit: nothing known against {len(looked_up)} locked packages{missed}")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


if __name__ == "__main__":
    status, text = main()
    sys.stdout.write(f"{text}\n")
    sys.exit(status)
