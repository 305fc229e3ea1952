"""API keys as text: `sk-semift-<id>-<secret>`. The id finds the row, the secret proves the right to it.

A secret is 256 random bits, which nobody guesses: SHA-256 is enough to store it. A slow hash protects what people choose,
and would cost every request a tenth of a second.
"""

import hashlib
import hmac
import re
import secrets
from typing import Literal, NamedTuple, get_args

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)  # it stands in ft:<base>:<tenant>:…, and * means every tenant
WIRE_PREFIX = "key_"  # how the wire names a key: key_<id>
_KEY = re.compile(r"sk-semift-([0-9a-f]{12})-([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


class Key(NamedTuple):
    id: str  # 12 hex digits
    secret: str  # 43 characters of base64url

    def __str__(self) -> str:
        return f"sk-semift-{self.id}-{self.secret}"

    def __repr__(self) -> str:
        return f"Key({self.id!r}, …)"  # a traceback or a log line must not hold the secret

    @property
    def secret_sha256(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()


def new_key() -> Key:
    return Key(secrets.token_hex(6), secrets.token_urlsafe(32))


def parse_key(text: str) -> Key | None:
    """None where `text` is no key."""
    found = _KEY.fullmatch(text)
    return Key(found[1], found[2]) if found else None


def is_secret_of(key: Key, stored_sha256: str | None) -> bool:
    """In the same time whether the key is unknown (`stored_sha256` None), or its secret is wrong in any place."""
    same = hmac.compare_digest(key.secret_sha256, stored_sha256 or _NOBODY)
    return same and stored_sha256 is not None
