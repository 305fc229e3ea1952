"""No call in this repository makes code of data; the scanner is shown to see the ways to write one."""

import pytest

from tests.house.banned import ALLOWED, CALLS, FOLDERS, ROOT, hits, scan


def test_nothing_here_makes_code_of_data() -> None:
    assert [f"{hit.path}:{hit.line} {hit.call}: {hit.why}" for hit in hits()] == []


def test_every_exception_is_still_needed() -> None:
    used = {
        (hit.path, hit.call)
        for path in {path for path, _ in ALLOWED}
        for hit in scan((ROOT / path).read_text(encoding="utf-8"), path)
    }
    assert set(ALLOWED) == used
    assert all(len(reason) > 10 for reason in ALLOWED.values())


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("eval(text)", "eval"),
        ("import builtins\nbuiltins.exec(text)", "exec"),
        ("compile(text, 'x', 'exec')", "compile"),
        ("import pickle\npickle.loads(b)", "pickle.loads"),
        ("import pickle as p\np.load(f)", "pickle.load"),
        ("from pickle import loads as read\nread(b)", "pickle.loads"),
        ("import marshal\nmarshal.loads(b)", "marshal.loads"),
        ("import shelve\nshelve.open('x')", "shelve.open"),
        ("import yaml\nyaml.load(t, Loader=yaml.Loader)", "yaml.load"),
        ("from yaml import unsafe_load\nunsafe_load(t)", "yaml.unsafe_load"),
        ("import os\nos.system('ls')", "os.system"),
        ("from os import popen\npopen('ls')", "os.popen"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
        ("import torch\ntorch.load('x.bin', weights_only=True)", "torch.load"),
        ("import numpy as np\nnp.load('x.npy', allow_pickle=True)", "allow_pickle=True"),
        ("from joblib import load\nload('x')", "joblib.load"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("from jinja2 import Template\nTemplate(text)", "jinja2.Template"),
        ("import jinja2\njinja2.Environment()", "jinja2.Environment"),
        (
            "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=True)",
            "trust_remote_code=True",
        ),
        ("import requests\nrequests.get('http://x')", "requests.get"),
        ("import httpx\nhttpx.Client(timeout=None)", "httpx.Client(timeout=None)"),
        ("import httpx\nhttpx.get('https://x', verify=False)", "verify=False"),
        ("from urllib.request import urlopen\nurlopen('http://x')", "urllib.request.urlopen"),
        ("import zipfile\nzipfile.ZipFile('x')", "zipfile.ZipFile"),
    ],
)
def test_a_seeded_violation_is_found(source: str, call: str) -> None:
    assert [hit.call for hit in scan(source, "seeded.py")] == [call]


@pytest.mark.parametrize(
    "source",
    [
        "import yaml\nyaml.safe_load(t)",
        "import re\nre.compile('x')",
        "network.eval()",
        "import requests\nrequests.get('http://x', timeout=5)",
        "import subprocess\nsubprocess.run(['ls'], check=True)",
        "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=False)",
    ],
)
def test_what_is_fine_is_left_alone(source: str) -> None:
    assert list(scan(source, "fine.py")) == []


def test_the_whole_repository_is_looked_at() -> None:
    code = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py")) and not path.name.startswith(".")}
    assert code - {"build"} == set(FOLDERS)
    assert len(CALLS) > 30
