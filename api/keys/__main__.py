"""`semift keys`: the operator's way to tenants and keys, straight to the database of the settings (SEMIFT_DATABASE_URL)."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import RowMapping

from migrations.upgrade import upgrade
from models.db import EVERYONE, transaction
from models.keys import SCOPES, TENANT, WIRE_PREFIX, Scope, new_key
from models.queries import keys
from models.settings import override

UNITS = {"h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
NOT_FOUND = 1
COLUMNS = ("key", "tenant", "scopes", "name", "created", "expires", "revoked", "last used")


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 no such key, 2 usage."""
    parser = argparse.ArgumentParser(prog="semift keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key; it is printed once, alone on standard output")
    create.add_argument("--tenant", type=tenant, required=True, help="whose: made when it is new")
    create.add_argument("--scopes", type=scopes, default=("read", "submit"), help="comma-separated: read, submit, admin")
    create.add_argument("--expires", type=seconds, help="12h, 30d, 8w or 1y from now (default: never)")
    create.add_argument("--name", default="", help="what it is for")
    commands.add_parser("list", help="all keys of all tenants; no secrets")
    revoke = commands.add_parser("revoke", help="a key opens nothing any more; servers notice within seconds")
    revoke.add_argument("id", help="key_…")
    for command in (create, revoke, commands.choices["list"]):
        command.add_argument("--data-dir", type=Path, help="of the embedded server (default: SEMIFT_DATA_DIR or .semift)")
    given = parser.parse_args(arguments)
    if given.data_dir:
        override(data_dir=given.data_dir.resolve())
    upgrade()
    if given.command == "create":
        return make(given.tenant, given.scopes, given.expires, given.name)
    return show() if given.command == "list" else end(given.id)


def make(tenant_id: str, scoped: Sequence[Scope], expires_in: float | None, name: str) -> int:
    key = new_key()
    with transaction(tenant=EVERYONE) as session:
        new = keys.ensure_tenant(session, tenant_id)
        row = keys.insert_key(session, tenant_id, key, name=name[:64], scopes=scoped, expires_in=expires_in)
    sys.stderr.write(f"{'A new tenant' if new else 'Tenant'} {tenant_id!r}. {WIRE_PREFIX}{row['id']} may {', '.join(scoped)}")
    sys.stderr.write(f"; it expires {_at(row['expires_at'])}. Keep it: it is not shown again.\n")
    sys.stdout.write(f"{key}\n")
    return 0


def show() -> int:
    with transaction(tenant=EVERYONE, read_only=True) as session:
        rows = [COLUMNS, *(_line(row) for row in keys.all_keys(session))]
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    return 0


def end(wire_id: str) -> int:
    key_id = wire_id.removeprefix(WIRE_PREFIX)
    with transaction(tenant=EVERYONE) as session:
        row = keys.find_key(session, key_id)
        done = row is not None and keys.revoke_key(session, row["tenant_id"], key_id)
    sys.stderr.write(f"{wire_id} is revoked.\n" if done else f"There is no key {wire_id!r}; semift keys list shows them.\n")
    return 0 if done else NOT_FOUND


def tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no tenant: 1 to 63 of a-z, 0-9, '_' and '-', not beginning with a sign")
    return text


def scopes(text: str) -> tuple[Scope, ...]:
    asked = {part.strip() for part in text.split(",")}
    if unknown := sorted(asked - set(SCOPES)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no scope; choose from {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in asked)


def seconds(text: str) -> float:
    found = re.fullmatch(r"([1-9]\d{0,4})([hdwy])", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 12h, 30d, 8w or 1y")
    return float(int(found[1]) * UNITS[found[2]])


def _line(row: RowMapping) -> tuple[str, ...]:
    times = (_at(row[name]) for name in ("created_at", "expires_at", "revoked_at", "last_used_at"))
    return (WIRE_PREFIX + row["id"], row["tenant_id"], ",".join(row["scopes"]), row["name"], *times)


def _at(time: float | None) -> str:
    return "never" if time is None else f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}Z"


if __name__ == "__main__":
    sys.exit(main())
