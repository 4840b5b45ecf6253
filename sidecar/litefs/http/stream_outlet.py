"""The ways of one follower's stream to its connection: one plain stream, or channels that take turns.

Strategy: what is live goes on channel 0. A snapshot goes on a channel of its own, by a task of its own, so that
commits of other databases wait for one block of it and not for its end. To a follower that knows no channels (Go
LiteFS) there is one plain stream, and a snapshot is sent where it is asked for.

Rules of this file: it runs on the event loop's thread. A snapshot that failed ends the stream, by an exception where
its database is looked at next.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from litefs.formats.stream_channels import LIVE_CHANNEL, encode_piece
from litefs.http.pump import Write

SNAPSHOTS_MAX = 2
"""At a time, to one follower: a small database need not wait for a large one, and the disk is read in order."""


class Outlet:
    """What one stream writes to.

    Attributes:
        live_at: when the follower was last sent something live, in `time.monotonic()` seconds.
    """

    def __init__(self, write: Write, *, has_channels: bool) -> None:
        """Args: write: sends bytes, waiting while the follower is slow."""
        self._write = write
        self.has_channels = has_channels
        self.live_at = time.monotonic()
        self._turn = asyncio.Lock()

    async def live(self, data: bytes) -> None:
        """Sends bytes of the stream that is not a snapshot's."""
        if self.has_channels:
            await self.on_channel(LIVE_CHANNEL, data)
        else:
            await self._write(data)
        self.live_at = time.monotonic()

    async def on_channel(self, channel: int, data: bytes) -> None:
        """Sends bytes of one channel, when it is their turn: whoever waits longest goes first."""
        async with self._turn:
            await self._write(encode_piece(channel, data))


class Snapshots:
    """The snapshots that are on their way to one follower, at most one of each database."""

    def __init__(self, outlet: Outlet, on_end: Callable[[str], None]) -> None:
        """Args: on_end: is called with the name of a database whose snapshot was sent, or failed."""
        self._outlet = outlet
        self._on_end = on_end
        self._free = asyncio.LifoQueue[int]()
        for channel in range(SNAPSHOTS_MAX):
            self._free.put_nowait(LIVE_CHANNEL + 1 + channel)
        self._tasks: dict[str, tuple[asyncio.Task[None], int]] = {}

    def begin(self, name: str, send: Callable[[Write], Awaitable[None]]) -> None:
        """Has a snapshot sent by `send`, which is given what it is to write to."""
        task = asyncio.create_task(self._send(send))
        task.add_done_callback(lambda _: self._on_end(name))
        self._tasks[name] = (task, time.time_ns() // 1_000_000)

    def is_under_way(self, name: str) -> bool:
        """Whether a snapshot of this database is not sent yet. Raises what ended one that failed."""
        if name not in self._tasks:
            return False
        task, _ = self._tasks[name]
        if not task.done():
            return True
        del self._tasks[name]
        task.result()
        return False

    @property
    def since_ms(self) -> int | None:
        """When the oldest of them became necessary, Unix milliseconds: the follower is that old. None without one."""
        return min((since_ms for _, since_ms in self._tasks.values()), default=None)

    async def cancel(self) -> None:
        """Ends all of them where they are."""
        tasks = [task for task, _ in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, send: Callable[[Write], Awaitable[None]]) -> None:
        channel = await self._free.get()
        try:
            await send(lambda data: self._outlet.on_channel(channel, data))
        finally:
            self._free.put_nowait(channel)
