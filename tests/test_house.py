"""The laws of the house: who may commit, query, read the environment or load weights. Broken by name and line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HARD_LIMIT = 400  # lines of a file
ROUTE_STATEMENTS = 8


def files(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted(p for p in (ROOT / package).rglob("*.py") if "versions" not in p.parts)


def calls(path: Path, *names: str) -> Iterator[str]:
    """`file:line name` of every call of `name` (a bare name) or `.name` (an attribute)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = f".{node.func.attr}" if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


SERVICE = ("api", "models", "worker")


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ((".commit",), ("models/db.py", "worker/keep.py", "worker/runner.py")),  # a runner asks its worker to commit a stage
        (("select", "insert", "update", "delete"), ("models/queries/", "worker/semisup/")),  # semisup's select is a stage
        (("getenv", ".getenv"), ("models/settings.py",)),
        ((".from_pretrained",), ("worker/semisup/lm.py",)),
        (("print",), ()),
        (("eval", "exec", ".system", ".popen"), ()),
    ],
    ids=lambda value: "/".join(value) or "nowhere",
)
def test_each_power_has_one_place(names, allowed):
    hits = [
        hit for path in files(*SERVICE) if not str(path.relative_to(ROOT)).startswith(allowed) for hit in calls(path, *names)
    ]
    assert hits == []


def test_the_api_says_whose_rows_every_transaction_is_for():
    """Without a tenant a transaction serves everybody: right for workers, never for a request."""
    nameless = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files("api")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "transaction"
        if "tenant" not in {keyword.arg for keyword in node.keywords}
    ]
    assert nameless == []


EVERYBODYS = {  # where the API may look at all tenants, and why
    "api/auth.py": "whose a key is, is what is asked",
    "api/keys/__main__.py": "the operator's command",
    "api/keys/local.py": "the embedded server's start",
    "api/files/reading.py": "a thread that reads the uploads of all tenants",
    "api/health/service.py": "no rows are looked at",
}


def test_the_api_serves_everybody_at_once_only_where_it_must():
    named = {str(path.relative_to(ROOT)) for path in files("api") if "EVERYONE" in path.read_text(encoding="utf-8")}
    assert named == set(EVERYBODYS)


def test_only_settings_reads_the_environment():
    def readers(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "environ":
                yield f"{path.relative_to(ROOT)}:{node.lineno}"

    hits = [hit for path in files(*SERVICE) if path.name != "settings.py" for hit in readers(path)]
    assert hits == []


@pytest.mark.parametrize("module", ["api.main", "worker.app", "worker.tasks", "worker.supervisor", "worker.semisup.spec"])
def test_processes_that_must_stay_light_never_import_torch(module):
    code = f"import {module}, sys; assert not {{'torch', 'transformers', 'peft'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("package", ["worker", "worker/semisup"])
def test_packages_on_the_way_to_the_spec_hold_a_docstring_only(package):
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    assert [type(node) for node in body] == [ast.Expr]


def test_routes_parse_call_and_return():
    for path in files("api"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_route = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                isinstance(d, ast.Call) and getattr(getattr(d.func, "value", None), "id", "") == "router"
                for d in node.decorator_list
            )
            if is_route:
                inside = [n for n in ast.walk(node) if isinstance(n, ast.stmt)][1:]
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                assert len(inside) <= ROUTE_STATEMENTS, where
                assert not any(isinstance(n, ast.Try) for n in inside), where


def test_no_file_has_more_rooms_than_a_head_can_hold():
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for path in files(*SERVICE, "client", "tests", "benchmarks", "examples")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > HARD_LIMIT
    ]
    assert long == []


def test_import_contracts_hold():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
