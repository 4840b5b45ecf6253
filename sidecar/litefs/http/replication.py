"""The body of `POST /stream`: everything a follower needs to get to our position and to stay there.

Strategy: per database, decide by the follower's position what takes it further: images from the log, or a
snapshot. Do that once for every database, say Ready, then again for each database that moved. The bytes go
to a function that waits while the follower is slow; nothing here knows of HTTP. Snapshots do not hold up what is
live where the follower knows channels (`stream_outlet`).

    follower's position, database at TXID n     what is sent
    beyond n, or at n with another checksum     as from position 0 (asked once, when it calls)
    at n with the same checksum                 nothing
    0                                           a snapshot
    t < n, image t+1 follows it                 the images t+1..n
    t < n, it does not, or is not in the log    a snapshot

Guarantees: only committed transactions leave the node. A frame is sent whole, or the body ends within it by
an exception and never by an End frame.

Source: LiteFS 0.5.14, POST /stream.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from litefs.errors import CorruptStateError, FormatError, NotPrimaryError, PositionMismatchError
from litefs.formats.position import ZERO_POS, Pos, Txid
from litefs.formats.stream import DropDbFrame, EndFrame, HandoffFrame, HeartbeatFrame, ReadyFrame, encode_frame
from litefs.http.errors import ConflictError, SlowPeerError
from litefs.http.feed import CommitFeed, Subscription
from litefs.http.followers import Follower, Followers, FrameKind
from litefs.http.log_images import Block, framed_images
from litefs.http.node_view import NodeView
from litefs.http.pump import Write, pump
from litefs.http.snapshot_images import framed_drop, framed_snapshot
from litefs.http.stream_outlet import Outlet, Snapshots
from litefs.link.messages import DatabaseInfo
from litefs.storage.log_reader import LogGapError, LogReader

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""Silence after which a heartbeat is due; followers take five times that for death."""

LIVE_DEAD_AFTER_S = 4.0
"""A follower that is caught up and acknowledges, or takes, nothing for so long is dead, or as good as that: it may call
again, and goes on where it stopped. With the heartbeat that finds it out that is five seconds."""

BEHIND_DEAD_AFTER_S = 30.0
"""The same while it has much to write: a slow disk that is taken for dead would never get through a snapshot."""

SIGNS_MISSED_MAX = 4
"""Seconds without a sign of life of a follower that gave some: its process hangs, though its kernel acknowledges."""

REPLACED_PAUSE_S = 0.1
"""A replacement that took the files away from under a snapshot is known here soon: it has to sync a directory first."""

LOOKED_AT_ONCE = 1000
"""Databases that a stream looks at, or tells of, before others of the process get their turn: about a millisecond."""

LOG_READERS_MAX = 32
"""Logs that one stream keeps open, at most four descriptors each. A database beyond that is searched again."""


class SignCounter:
    """Notices that a follower gives no signs of life any more.

    It counts seconds in which it looked in vain, and not the time that passed: whoever stood still himself, and finds
    that much time has passed, has missed one.
    """

    def __init__(self, sign_n: Callable[[], int]) -> None:
        """Args: sign_n: how many there were so far."""
        self._sign_n = sign_n
        self._seen_n = 0
        self._missed_n = 0
        self._due_at = 0.0

    def find_none(self) -> bool:
        """Looks, at most once in a second. Returns whether that was in vain `SIGNS_MISSED_MAX` times on end."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + HEARTBEAT_S
        sign_n = self._sign_n()
        is_missing = sign_n > 0 and sign_n == self._seen_n
        self._seen_n = sign_n
        self._missed_n = self._missed_n + 1 if is_missing else 0
        return self._missed_n >= SIGNS_MISSED_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How streams are served.

    Attributes:
        compress: snapshots are LZ4 frames.
        snapshot_timeout_s: longest time that one snapshot may take.
        remembered_s: for so long a replica that went still has the log kept for it.
    """

    compress: bool
    snapshot_timeout_s: float
    remembered_s: float = 3600.0


class ReplicationStream:
    """One follower's stream, from its position map to the End frame."""

    def __init__(
        self,
        node: NodeView,
        feed: CommitFeed,
        executor: Executor,
        followers: Followers,
        follower: Follower,
        settings: StreamSettings,
        set_dead_after: Callable[[float], None] = lambda _seconds: None,
        sign_n: Callable[[], int] = lambda: 0,
    ) -> None:
        """Makes the stream; nothing is sent yet.

        Args:
            node: what is replicated.
            feed: of its commits.
            executor: reads and compresses.
            followers: lists this one while it is connected.
            follower: who calls.
            settings: how it is served.
            set_dead_after: has the kernel drop the connection when so many seconds pass without an acknowledgement.
            sign_n: how many signs of life came from the follower since; always 0 of one that gives none.
        """
        self._node = node
        self._feed = feed
        self._executor = executor
        self._followers = followers
        self.follower = follower
        self._settings = settings
        self._set_dead_after = set_dead_after
        self._signs = SignCounter(sign_n)
        self._is_live = False
        self._logs: dict[str, LogReader] = {}
        self._log_ends: dict[str, Pos] = {}
        """Where the readers in `_logs` stand: only what follows there is found without a search."""
        self._subscription: Subscription | None = None
        self._handoff: tuple[str, asyncio.Future[bool]] | None = None

    async def hand_off(self, lease_id: str) -> bool:
        """Sends the lease behind everything that the feed knows, and ends the stream. Returns whether it was sent."""
        if self._subscription is None or self._handoff is not None:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._handoff = (lease_id, done)
        self._subscription.wake()
        return await done

    async def run(self, write: Write) -> None:
        """Writes the stream until the feed closes.

        Args:
            write: sends bytes, waiting while the follower is slow.

        Raises:
            CorruptStateError, DatabaseNotFoundError, LinkClosedError, NotPrimaryError, SlowPeerError: the stream
                cannot go on, and the connection must be dropped as it is.
        """
        subscription = self._subscription = self._feed.subscribe()
        try:
            with self._followers.listed(self.follower):
                outlet = Outlet(write, has_channels=self.follower.has_channels)
                snapshots = Snapshots(outlet, subscription.add)
                try:
                    await self._run(subscription, outlet, snapshots)
                finally:
                    await snapshots.cancel()
        finally:
            self._subscription = None
            if self._handoff is not None and not self._handoff[1].done():
                self._handoff[1].set_result(False)
            self._feed.unsubscribe(subscription)
            for log in self._logs.values():
                log.close()

    async def _run(self, subscription: Subscription, outlet: Outlet, snapshots: Snapshots) -> None:
        self._forget_diverged()
        names = sorted(self._wanted(set(self.follower.positions) | subscription.take()))
        while True:
            # Asked before the databases are looked at: what was committed until then is sent.
            leads, ends = self._node.status().leads, subscription.closed
            for nth, name in enumerate(await self._tell_unknown(names, outlet), 1):
                await self._catch_up(name, outlet, snapshots)
                if nth % LOOKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            is_whole = snapshots.since_ms is None
            if is_whole and not self.follower.ready:
                self.follower.ready = True
                await outlet.live(encode_frame(ReadyFrame()) + _heartbeat(None))
            if is_whole and self._handoff is not None:
                await self._send_lease(outlet)
                return
            if ends or not leads:
                if not is_whole:
                    raise NotPrimaryError("the stream ends in the middle of a snapshot")
                await outlet.live(encode_frame(EndFrame()))
                return
            self._note_live(is_whole)
            if self._signs.find_none():
                self._followers.silent_n += 1
                raise SlowPeerError(f"replica {self.follower.node_id} gives no sign of life for {SIGNS_MISSED_MAX} s")
            if time.monotonic() >= outlet.live_at + HEARTBEAT_S:
                await outlet.live(_heartbeat(snapshots.since_ms))
            await subscription.wait(max(outlet.live_at + HEARTBEAT_S - time.monotonic(), 0.0))
            names = list(self._wanted(subscription.take()))

    async def _tell_unknown(self, names: list[str], outlet: Outlet) -> list[str]:
        """Tells the follower which databases this node does not have, many in one write. Returns the others."""
        unknown = [name for name in names if name not in self._feed.positions]
        for first in range(0, len(unknown), LOOKED_AT_ONCE):
            frames = [encode_frame(DropDbFrame(name=name)) for name in unknown[first : first + LOOKED_AT_ONCE]]
            await outlet.live(b"".join(frames))
        return [name for name in names if name in self._feed.positions] if unknown else names

    def _note_live(self, is_live: bool) -> None:
        if is_live != self._is_live:
            self._is_live = is_live
            self._set_dead_after(LIVE_DEAD_AFTER_S if is_live else BEHIND_DEAD_AFTER_S)

    async def _send_lease(self, outlet: Outlet) -> None:
        assert self._handoff is not None
        lease_id, done = self._handoff
        if done.cancelled():  # whoever asked has withdrawn the lease
            return
        await outlet.live(encode_frame(HandoffFrame(lease_id=lease_id)) + encode_frame(EndFrame()))
        if not done.cancelled():
            done.set_result(True)

    def _wanted(self, names: set[str]) -> set[str]:
        return names if self.follower.names is None else names & self.follower.names

    def _forget_diverged(self) -> None:
        """Drops the follower's positions that are on another branch than ours.

        Only what it claims can be: what we send later is ours, though `feed` may hear of it after we sent it.
        """
        for name, pos in list(self.follower.positions.items()):
            database = self._feed.positions.get(name)
            if database is not None and (
                pos.txid > database.txid or (pos.txid == database.txid and pos.checksum != database.checksum)
            ):
                self.follower.positions[name] = ZERO_POS

    async def _catch_up(self, name: str, outlet: Outlet, snapshots: Snapshots) -> None:
        """Sends what takes the follower to the position that the database `name` has when this ends.

        With channels it may end while a snapshot is on its way; the database is looked at again behind it.
        """
        while not snapshots.is_under_way(name):
            database = self._feed.positions.get(name)
            if database is None:
                await outlet.live(encode_frame(DropDbFrame(name=name)))
                return
            pos = self.follower.positions.get(name, ZERO_POS)
            if pos.txid == database.txid and pos.checksum != database.checksum and database.txid:
                raise CorruptStateError(f"{name}: the log led to {pos}, the database is at {database}")
            if pos.txid >= database.txid:
                return
            if pos.txid > 0:
                await self._send_images(database, pos, outlet.live)
                if self.follower.positions.get(name) != pos:
                    continue  # it got somewhere; the rest is decided anew
            if database.page_n == 0:
                await self._send_drop(database, outlet.live)
            elif outlet.has_channels:
                snapshots.begin(name, partial(self._send_snapshot, database))
            else:
                await self._send_snapshot(database, outlet.live)

    async def _send_images(self, database: DatabaseInfo, pos: Pos, write: Write) -> None:
        """Sends images from the log, as far as they follow; the follower's position tells how far that was."""
        name = database.name
        log = self._log(name)
        # What follows where we stand was written since, so it was checked on its way and is in the page cache.
        live = self._log_ends.get(name) == pos
        blocks = framed_images(log, name, pos, Txid(database.txid), verify=not live)
        take = partial(self._send, name, write, "ltx")
        try:
            if live and (block := next(blocks, None)) is not None:
                # One small read from memory costs less than handing it to a thread.
                await take(block)
                if block.pos is not None and block.pos.txid >= database.txid:
                    return
            await pump(self._executor, blocks, take)
        except (LogGapError, PositionMismatchError) as reason:
            logger.info("%s: a snapshot is needed for %s: %s", name, self.follower.address, reason)
        except FormatError as reason:
            logger.warning("%s: a snapshot is sent, for the log is damaged: %s", name, reason)

    async def _send_drop(self, database: DatabaseInfo, write: Write) -> None:
        await self._send(database.name, write, "ltx:snapshot", framed_drop(database, self._node.status().node_id))

    async def _send_snapshot(self, database: DatabaseInfo, write: Write) -> None:
        name = database.name
        take = partial(self._send, name, write, "ltx:snapshot")
        started = time.monotonic()
        sent_before = self.follower.sent_bytes
        blocks = framed_snapshot(self._node, name, compress=self._settings.compress)
        try:
            async with asyncio.timeout(self._settings.snapshot_timeout_s):
                await pump(self._executor, blocks, take)
        except TimeoutError:
            raise SlowPeerError(f"{name}: no snapshot within {self._settings.snapshot_timeout_s} s") from None
        except ConflictError as reason:
            await asyncio.sleep(REPLACED_PAUSE_S)
            if self._feed.positions.get(name) == database:
                raise  # it is not: its files are not where they should be
            logger.info("%s; what took its place is sent to %s", reason, self.follower.address)
            return
        seconds = time.monotonic() - started
        megabytes = (self.follower.sent_bytes - sent_before) / 1e6
        logger.info("%s: snapshot to %s: %.1f MB in %.2f s", name, self.follower.address, megabytes, seconds)

    async def _send(self, name: str, write: Write, kind: FrameKind, block: Block) -> None:
        await write(block.data)
        self.follower.sent_bytes += len(block.data)
        if block.pos is not None:
            self.follower.positions[name] = block.pos
            self._followers.frame_counts[name, kind] += block.image_n
            if kind == "ltx":
                self._log_ends[name] = block.pos

    def _log(self, name: str) -> LogReader:
        """Returns the reader of a database's log, which remembers where the last image ended."""
        log = self._logs.pop(name, None)
        if log is None:
            while len(self._logs) >= LOG_READERS_MAX:
                oldest = next(iter(self._logs))
                self._log_ends.pop(oldest, None)
                self._logs.pop(oldest).close()
            log = LogReader(self._node.data_dir / "dbs" / name / "log")
        self._logs[name] = log
        return log


def _heartbeat(behind_since_ms: int | None) -> bytes:
    """Returns a heartbeat of now, or of the time that the follower will be at when it has what is on its way."""
    now_ms = time.time_ns() // 1_000_000
    return encode_frame(HeartbeatFrame(timestamp_ms=now_ms if behind_since_ms is None else behind_since_ms))
