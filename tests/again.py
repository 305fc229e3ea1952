"""For CI, after `make test` failed: a test or two that failed run again alone, three times, and must pass each time.

Tests here start servers and processes, and a machine that stands still for seconds can fail one that is right. What passes
this way is named in the log all the same, to be looked at: a race looks like this too. More failures, or none that pytest
could name, are failures.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MOST, TIMES = 2, 3
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def failed(path: Path = FAILED) -> list[str]:
    return sorted(json.loads(path.read_text())) if path.is_file() else []


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    names: Sequence[str] = failed()
    if not 0 < len(names) <= MOST:
        say(f"{len(names)} failed tests: nothing is run again.")
        return 1
    say(f"Run again alone, {TIMES} times: {', '.join(names)}")
    for _ in range(TIMES):
        if code := subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-q", *names]).returncode:
            return code
    say(f"FAILED FIRST, THEN PASSED {TIMES} TIMES ALONE (look at it): {', '.join(names)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
