"""What is installed is what is listed: locks against lists and pins, and how the vulnerability check reads its report."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.house import audit

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
NAMES = ("api", "worker", "dev")
BY_VERSION_ALONE = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(name: str) -> set[str]:
    """The packages named in a list and in those it includes."""
    found: set[str] = set()
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found |= listed(text.removeprefix("-r ").removesuffix(".txt"))
        elif text:
            found.add(canonical(re.split(r"[\[<>=~! ]", text)[0]))
    return found


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Package -> version and number of hashes. Every line is a pin, a hash or nothing."""
    found: dict[str, tuple[str, int]] = {}
    current = ""
    for line in (FOLDER / f"{name}.lock").read_text(encoding="utf-8").splitlines():
        if pin := re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!-]+)(?: ;.*)? \\", line):
            current = canonical(pin[1])
            found[current] = (pin[2], 0)
        else:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
            found[current] = (found[current][0], found[current][1] + 1)
    return found


def pinned() -> dict[str, str]:
    lines = (FOLDER / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_everything_its_list_names_with_hashes(name: str) -> None:
    lock = locked(name)
    assert listed(name) - {"torch"} <= set(lock), "run `make lock`"
    assert all(hashes for _, hashes in lock.values())
    assert not [package for package in lock if BY_VERSION_ALONE.fullmatch(package)]


@pytest.mark.parametrize("name", NAMES)
def test_locks_and_pins_name_the_same_versions(name: str) -> None:
    pins = pinned()
    assert {package: version for package, (version, _) in locked(name).items() if pins.get(package) != version} == {}


def test_what_serves_and_works_is_part_of_what_is_tested() -> None:
    api, worker, dev = (locked(name) for name in NAMES)
    assert api.items() <= worker.items() <= dev.items()
    assert not {"transformers", "peft"} & set(api)


def test_make_and_the_images_install_from_locks_with_hashes() -> None:
    for path, lock in (("Makefile", "dev"), ("api/Dockerfile", "api"), ("worker/Dockerfile", "worker")):
        installs = re.findall(r"pip install [^&\n]*", (ROOT / path).read_text(encoding="utf-8"))
        assert any("--require-hashes" in line and f"requirements/{lock}.lock" in line for line in installs), path
        others = [line for line in installs if "--require-hashes" not in line]
        assert all("torch==" in line or "-e client" in line for line in others), others


PACKAGE = {"name": "x", "version": "1"}
ADVISORY = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}


@pytest.mark.parametrize(
    ("packages", "status", "says"),
    [
        ([{**PACKAGE, "vulns": [ADVISORY]}], 1, "x 1: PYSEC-1: fixed in 2"),
        ([{**PACKAGE, "vulns": []}], 0, "nothing known against 1 locked packages"),
        ([{**PACKAGE, "vulns": []}, {"name": "y", "skip_reason": "z"}], 0, "1 could not be looked up"),
        ([{"name": "x", "skip_reason": "not found on PyPI: x"}], 0, "cannot be reached (not found on PyPI)"),
        ([], 0, "cannot be reached"),
    ],
)
def test_advisories_fail_the_check_and_their_absence_does_not(packages: list[dict[str, Any]], status: int, says: str) -> None:
    found = audit.verdict({"dependencies": packages})
    assert found.status == status
    assert says in found.text


def test_an_accepted_advisory_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "not reachable here"})
    assert audit.verdict({"dependencies": [{**PACKAGE, "vulns": [ADVISORY]}]}).status == 0


def test_a_check_that_cannot_run_says_why_and_fails_nothing() -> None:
    said = audit.main((sys.executable, "-c", "import sys; sys.exit('no network here')"))
    assert said == (0, "pip-audit: not done, no network here")
