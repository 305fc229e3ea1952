"""kombu's filesystem transport, with every step a rename: no reader meets half a message or half a table.

kombu opens a message under its final name and writes it then, writes an exchange's table into a file that it has just
emptied, and takes a message by copying it where the system's temporary folder is on another disk. Whoever reads in
between gets a JSON error, which ends a Celery worker. Here a file gets its name when it is whole, and whoever renames a
message has it.
"""

import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.json import dumps, loads

PART, TAKEN = ".part", ".taken"  # behind a message's name: kombu's other methods look for names that end in the queue's


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu says no types
    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"  # kombu's form: sorted, the oldest is first
        _appears(Path(self.data_folder_out) / name, str_to_bytes(dumps(payload)))

    def _get(self, queue: str) -> Any:
        """The oldest message of the queue, for one reader only. Raises Empty."""
        folder = Path(self.data_folder_in)
        for message in sorted(folder.iterdir()):
            if message.name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = folder / f"{message.name}{TAKEN}"
            try:
                message.rename(taken)
                payload = taken.read_bytes()
                taken.unlink()
            except FileNotFoundError:  # another reader's by now, or emptied away
                continue
            return loads(bytes_to_str(payload))
        raise Empty

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """With a table there from the start, which kombu then reads and writes under its lock."""
        table = self._exchange_file(exchange)
        table.parent.mkdir(parents=True, exist_ok=True)
        with (table.parent / "new-table.lock").open("w") as one_at_a_time:
            filesystem.lock(one_at_a_time, filesystem.LOCK_EX)
            if not table.exists():
                _appears(table, str_to_bytes(dumps([])))
        super()._queue_bind(exchange, routing_key, pattern, queue)


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def _appears(path: Path, content: bytes) -> None:
    """The whole file under its name at once. Raises ChannelError, as kombu does where it cannot write."""
    part = path.with_name(f"{path.name}.{uuid.uuid4()}{PART}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ChannelError(f"Cannot write {path}: {error.strerror}") from error
