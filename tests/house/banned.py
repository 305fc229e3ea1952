"""Calls that turn data into code, or let somebody else's server or program decide what happens here: found in the source.

A line that needs one is in ALLOWED with the reason; everything else fails `make check` (tests/house/test_banned.py).
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = ("api", "models", "worker", "migrations", "client", "benchmarks", "examples", "tests")

# The call (as its module spells it) -> why not.
CALLS: Mapping[str, str] = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes code of text",
    "__import__": "imports what a text names",
    "importlib.import_module": "imports what a text names",
    "code.interact": "runs what is typed",
    "pickle.load": "unpickling runs code",
    "pickle.loads": "unpickling runs code",
    "pickle.Unpickler": "unpickling runs code",
    "dill.load": "unpickling runs code",
    "dill.loads": "unpickling runs code",
    "cloudpickle.load": "unpickling runs code",
    "cloudpickle.loads": "unpickling runs code",
    "marshal.load": "crashes on data, and what it loads is code",
    "marshal.loads": "crashes on data, and what it loads is code",
    "shelve.open": "unpickles",
    "joblib.load": "unpickles",
    "torch.load": "unpickles; with weights_only too it has run code (CVE-2025-32434)",
    "torch.jit.load": "loads code",
    "torch.hub.load": "downloads and runs code",
    "pandas.read_pickle": "unpickles",
    "yaml.load": "makes objects of tags: yaml.safe_load",
    "yaml.full_load": "makes objects of tags: yaml.safe_load",
    "yaml.unsafe_load": "makes objects of tags: yaml.safe_load",
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "tempfile.mktemp": "a name that somebody else can take first: mkstemp",
    "jinja2.Template": "templates run code: transformers renders chat templates in its sandbox",
    "jinja2.Environment": "templates run code: jinja2.sandbox.ImmutableSandboxedEnvironment",
    "datasets.load_dataset": "may run a data set's script",
    "random.seed": "one state for everybody: numpy.random.Generator",
    "ssl._create_unverified_context": "believes any server",
    "xml.etree.ElementTree.parse": "expands entities",
    "xml.etree.ElementTree.fromstring": "expands entities",
    "tarfile.open": "archives write where their names say",
    "zipfile.ZipFile": "archives unpack to any size",
    "shutil.unpack_archive": "archives write where their names say",
}
# Of any call: this keyword with this value.
KEYWORDS: Mapping[tuple[str, object], str] = {
    ("shell", True): "a shell",
    ("trust_remote_code", True): "runs code that lies beside weights",
    ("allow_pickle", True): "unpickling runs code",
    ("weights_only", False): "unpickling runs code",
    ("verify", False): "believes any server",
    ("use_safetensors", False): "loads pickled weights",
}
# These wait for ever unless told.
VERBS = ("get", "post", "put", "patch", "delete", "head", "request")
NEED_TIMEOUT = (*(f"requests.{verb}" for verb in VERBS), "urllib.request.urlopen")


class Hit(NamedTuple):
    path: str  # from the root of the repository
    line: int
    call: str
    why: str


# (file, call) -> the reason it may.
ALLOWED: Mapping[tuple[str, str], str] = {
    ("benchmarks/__main__.py", "importlib.import_module"): "the name comes from a table in the same file",
    ("benchmarks/reliability/tests.py", "xml.etree.ElementTree.parse"): "reads the report that pytest wrote a moment ago",
    ("tests/security/odd_reader.py", "pickle.loads"): "a reader that tries to unpickle is stopped: that is the test",
    ("tests/security/odd_reader.py", "os.system"): "a reader that tries to start a shell is stopped: that is the test",
    ("tests/security/test_audit.py", "pickle.loads"): "what the audit hook must notice",
    ("tests/security/test_audit.py", "os.system"): "what the audit hook must notice",
}


def scan(source: str, path: str) -> Iterator[Hit]:
    """Every banned call of one file, whether it is allowed there or not. Aliases of imports are followed."""
    tree = ast.parse(source)
    names = _imports(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = _spelled(node.func, names)
        if why := CALLS.get(call):
            yield Hit(path, node.lineno, call, why)
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and (why := KEYWORDS.get((keyword.arg or "", keyword.value.value))):
                yield Hit(path, node.lineno, f"{keyword.arg}={keyword.value.value}", why)
        if call in NEED_TIMEOUT and not {"timeout", None} & {keyword.arg for keyword in node.keywords}:
            yield Hit(path, node.lineno, call, "waits for ever: give it a timeout")
        if call == "httpx.Client" and any(k.arg == "timeout" and _is_none(k.value) for k in node.keywords):
            yield Hit(path, node.lineno, f"{call}(timeout=None)", "waits for ever: give it a timeout")


def hits(root: Path = ROOT) -> list[Hit]:
    """Of the whole repository, those that are allowed left out."""
    found = [
        hit
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
        for hit in scan(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())
    ]
    return [hit for hit in found if (hit.path, hit.call) not in ALLOWED]


def _imports(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
                      for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _spelled(node: ast.expr, names: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        full = names.get(node.id, node.id)
        return full.removeprefix("builtins.")
    if isinstance(node, ast.Attribute):
        return f"{_spelled(node.value, names)}.{node.attr}".removeprefix("builtins.")
    return "?"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
