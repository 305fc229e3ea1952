"""The key of an embedded server on this machine, which it wrote into its data folder."""

import os
from pathlib import Path

from semift.errors import BadInput
from semift.up import find_checkout

FILE = "api-key"
DATA_DIR = ".semift"


def local_key() -> str:
    """From SEMIFT_DATA_DIR, or .semift of the checkout this is called from; empty where there is none to be read."""
    try:
        given = os.environ.get("SEMIFT_DATA_DIR")
        folder = Path(given) if given else find_checkout((Path.cwd(), Path(__file__).resolve().parent)) / DATA_DIR
        return (folder / FILE).read_text(encoding="ascii").strip()
    except (BadInput, OSError, ValueError):
        return ""
