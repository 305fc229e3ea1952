"""A TCP proxy that misbehaves on demand: between a process and PostgreSQL, Redis or the API, in a thread of its own.

pass        bytes go through
blackhole   nothing goes through and nobody is told; what was held back arrives when the mode changes, as after a partition
reset       connections, old and new, are ended with RST
refuse      new connections are refused, old ones ended with RST
delay:S     every piece arrives S seconds late
cut:N       each connection ends with RST once N more bytes have gone through, in both directions together
slow:B      each direction of a connection passes B bytes a second
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

MODES = ("pass", "blackhole", "reset", "refuse", "delay", "cut", "slow")
WITH_A_NUMBER = ("delay", "cut", "slow")
PIECE_BYTES = 1 << 16
TICK_SECONDS = 0.05
CLOSE_SECONDS = 30.0
RST = struct.pack("ii", 1, 0)


def parsed(mode: str) -> tuple[str, float]:
    """("cut", 100.0) of "cut:100". Raises ValueError."""
    name, _, number = mode.partition(":")
    if name not in MODES:
        raise ValueError(f"unknown mode {mode!r}; there are {', '.join(MODES)}")
    if bool(number) != (name in WITH_A_NUMBER):
        raise ValueError(f"{name} {'needs' if name in WITH_A_NUMBER else 'takes no'} number: {mode!r}")
    value = float(number or 0)
    if number and value <= 0:
        raise ValueError(f"{name} wants a positive number: {mode!r}")
    return name, value


class ChaosProxy:
    """`with ChaosProxy("127.0.0.1", 5432) as proxy: connect to proxy.port; proxy.set("blackhole")`."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.mode = "pass"
        self._name, self._value = "pass", 0.0
        self.connections = 0  # accepted so far
        self._links: set[_Link] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, mode: str) -> None:
        """From now on; returns when it is in force. Raises ValueError for a mode there is not."""
        name, value = parsed(mode)
        self._call(self._switch(mode, name, value))

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=PIECE_BYTES)

    async def _deafen(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._deafen()
        self._end_links()
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSE_SECONDS)

    async def _switch(self, mode: str, name: str, value: float) -> None:
        self.mode, self._name, self._value = mode, name, value
        if name in ("reset", "refuse"):
            self._end_links()
        for link in self._links:
            link.left = value
        if name == "refuse":
            await self._deafen()
        else:
            await self._listen()

    def _end_links(self) -> None:
        for link in tuple(self._links):
            link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(writer, self._value)
        self._links.add(link)
        try:
            while self._name == "blackhole" and not link.ended:
                await asyncio.sleep(TICK_SECONDS)
            if self._name in ("reset", "refuse") or link.ended:
                link.reset()
                return
            behind, ahead = await asyncio.open_connection(*self._upstream, limit=PIECE_BYTES)
            link.add(ahead)
            both = (self._pump(link, reader, ahead), self._pump(link, behind, writer))
            done, pending = await asyncio.wait(
                [asyncio.ensure_future(one) for one in both], return_when=asyncio.FIRST_COMPLETED
            )
            for task in pending:
                if link.ended:
                    task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        except OSError:
            link.reset()
        finally:
            link.close()
            self._links.discard(link)

    async def _pump(self, link: "_Link", source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Until one side has no more to say, which the other is told; a side that was reset takes the other with it."""
        try:
            while piece := await source.read(PIECE_BYTES):
                await self._pass_on(link, piece, target)
                if link.ended:
                    return
            if target.can_write_eof() and not link.ended:
                target.write_eof()
        except OSError:
            link.reset()

    async def _pass_on(self, link: "_Link", piece: bytes, target: asyncio.StreamWriter) -> None:
        while self._name == "blackhole" and not link.ended:
            await asyncio.sleep(TICK_SECONDS)
        if self._name == "delay":
            await asyncio.sleep(self._value)
        elif self._name == "cut":
            piece, cut = piece[: int(link.left)], len(piece) >= link.left
            link.left -= len(piece)
            target.write(piece)
            await target.drain()
            if cut:
                link.reset()
            return
        while self._name == "slow" and piece and not link.ended:
            some = max(1, int(self._value * TICK_SECONDS))
            target.write(piece[:some])
            piece = piece[some:]
            await target.drain()
            await asyncio.sleep(some / self._value)
        if not link.ended:
            target.write(piece)
            await target.drain()


class _Link:
    """Both sides of one connection."""

    def __init__(self, writer: asyncio.StreamWriter, left: float) -> None:
        self._writers, self.left, self.ended = [writer], left, False

    def add(self, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)

    def reset(self) -> None:
        self._end(_hang_up)

    def close(self) -> None:
        self._end(lambda writer: writer.close())

    def _end(self, how: Callable[[asyncio.StreamWriter], None]) -> None:
        if not self.ended:
            self.ended = True
            for writer in self._writers:
                with contextlib.suppress(OSError):
                    how(writer)


def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    writer.transport.abort()
