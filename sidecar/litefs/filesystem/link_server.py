"""The filesystem's side of the link: answers the node process, and tells it what was committed.

Strategy: requests are answered in order, on the loop; those that wait for the disk run one after the
other in a task. A link that breaks is no error: the node process died, the supervisor brings a new one.
"""

import logging
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from litefs.errors import DiskLostError, FormatError, LiteFSError
from litefs.filesystem.inodes import Kind
from litefs.filesystem.loop import Waiter
from litefs.filesystem.operations import Operations
from litefs.filesystem.snapshots import open_snapshot
from litefs.formats.database_name import REPLACEMENT_PREFIX
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode
from litefs.storage import replacement
from litefs.storage.database import Database
from litefs.storage.divergence import place_for_old_state
from litefs.storage.followed import append_image, append_spooled
from litefs.storage.incoming import discard_incoming
from litefs.storage.state import DatabaseState

RECEIVE_BYTES = 1 << 16
TXID_MAX = (1 << 64) - 1
UNHEARD_PAUSE_S = 0.01
"""Between two times that a primary tells what was committed while nobody listens: a process that is woken by each
commit takes a processor from the application that writes. A replica's node process has to know its positions itself."""

IMAGES_AT_ONCE = 16
"""Put into a log before others run: some 50 µs each."""

APPLIED_PAUSE_S = 0.001
"""Before a replica's node process is told what it has applied itself: it is letting readers in just then."""
_log = logging.getLogger("litefs.filesystem")


class LinkServer:
    """One link to one node process at a time."""

    def __init__(self, operations: Operations, on_role: Callable[[], None]) -> None:
        """Args: on_role: called after the role changed."""
        self._operations = operations
        self._loop = operations.loop
        self._store = operations.store
        self._on_role = on_role
        self._socket: socket.socket | None = None
        self._decoder: MessageDecoder[m.NodeMessage] = MessageDecoder(m.NodeMessage)
        self._outgoing = bytearray()
        self._requests: deque[m.NodeMessage] = deque()
        self._request_arrived: Waiter | None = None
        self._told: dict[str, tuple[int, int]] = {}  # the position of each `Committed` that was not acknowledged
        self._is_heard = self._is_pausing = False
        self._moved: set[str] = set()  # databases that the next end of a pause tells of
        self._next_snapshot = 1
        self._snapshots: dict[int, Database] = {}
        self._needed: dict[str, list[int]] = {}  # what was said of it so far
        operations.on_shm_created = lambda name: self._send(m.ShmCreated(name))

    def attach(self, link: socket.socket) -> None:
        """Begins to serve a link; an older one is dropped."""
        self.detach()
        link.setblocking(False)
        self._socket = link
        self._is_heard = self._is_pausing = False
        self._decoder = MessageDecoder(m.NodeMessage)
        self._loop.watch(link.fileno(), self._receive)

    def detach(self) -> None:
        """Drops the link: the node process is gone."""
        if self._socket is None:
            return
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._operations.node_pid = 0
        self._outgoing.clear()
        self._requests.clear()
        self._moved.clear()
        self._needed.clear()
        for snapshot_id in list(self._snapshots):
            self._close_snapshot(snapshot_id)
        for served in self._store.databases.values():
            served.is_being_replaced = False

    def committed(self, database: Database) -> None:
        """Tells the node process, unless it has yet to take note of what it was told last."""
        name = database.name
        if self._socket is None or not self._operations.node_pid or name in self._told:
            return
        if not self._store.gate.is_open:
            self._told[name] = (database.txid, database.checksum)
            self._loop.call_later(APPLIED_PAUSE_S, lambda: self._tell_applied(name))
        elif self._is_heard or not self._is_pausing:
            self._tell(database)
        else:
            self._moved.add(name)

    def _tell(self, *databases: Database) -> None:
        for database in databases:
            self._told[database.name] = (database.txid, database.checksum)
        self._send(*(m.Committed(_info(database)) for database in databases))
        if not self._is_heard and not self._is_pausing:
            self._is_pausing = True
            self._loop.call_later(UNHEARD_PAUSE_S, self._end_pause)

    def _end_pause(self) -> None:
        self._is_pausing = False
        names, self._moved = self._moved - self._told.keys(), set()
        moved = [served.database for name in names if (served := self._store.databases.get(name)) is not None]
        if moved:
            self._tell(*moved)

    def _tell_applied(self, name: str) -> None:
        served = self._store.databases.get(name)
        if served is not None and self._told.pop(name, None) is not None:
            self._tell(served.database)

    async def serve(self) -> None:
        """Answers requests for ever."""
        while True:
            if not self._requests:
                self._request_arrived = Waiter(self._loop)
                await self._request_arrived
                self._request_arrived = None
                continue
            link = self._socket
            request = self._requests.popleft()
            try:
                answer = await self._handle(request)
            except DiskLostError as error:
                self._operations.stop_at_once(error)
                raise
            except (LiteFSError, OSError) as error:
                answer = self._rejected(getattr(request, "name", ""), str(error))
            if answer is not None and link is self._socket:
                self._send(answer)

    # ---- bytes ----

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.detach()
            return
        try:
            messages = self._decoder.feed(data)
        except FormatError as error:
            _log.error("link: %s", error)
            self.detach()
            return
        for message in messages:
            if isinstance(message, m.Ping):
                self._send(m.Pong(self._loop.sync_wait_s))
            else:
                self._requests.append(message)
        if self._requests and self._request_arrived is not None:
            waiter, self._request_arrived = self._request_arrived, None
            waiter.complete()

    def _send(self, *messages: msgspec.Struct) -> None:
        if self._socket is None:
            return
        data = b"".join(map(encode, messages))
        if not self._outgoing:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(data):
                return
            data = data[sent:]
        if not self._outgoing:
            self._loop.call_later(0.001, self._flush)
        self._outgoing += data

    def _flush(self) -> None:
        if self._socket is None or not self._outgoing:
            return
        try:
            del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            return
        if self._outgoing:
            self._loop.call_later(0.001, self._flush)

    # ---- requests ----

    async def _handle(self, request: m.NodeMessage) -> m.Answer | None:
        match request:
            case m.AppendImages(name, images):
                return await self._append_images(name, images)
            case m.AppendSpooledImage(name, path):
                return await self._append_spooled(name, path)
            case m.Hello(pid):
                self._operations.node_pid = pid
                await self._loop.drive(self._store.discard_unfinished(pid))
                self._told.clear()
                for name in self._store.databases:
                    self._show(name, TXID_MAX)  # what an applier that died had not published, the next one has
                return m.Welcome([_info(served.database) for served in self._store.databases.values()])
            case m.OpenSnapshot(name):
                return self._open_snapshot(name)
            case m.AskCounters():
                return self._counters()
            case m.PrepareReplacement():
                return await self._prepare_replacement(request)
            case m.RefuseOpens():
                self._operations.refuses_opens = True
                inodes = self._operations.inodes.by_name.values()
                return m.OpensRefused([inode.name for inode in inodes if inode.kind is Kind.SHM])
            case _:
                self._take_note(request)
        return None

    def _take_note(self, message: m.NodeMessage) -> None:
        """Takes what has no answer."""
        match message:
            case m.SetListening(is_listening):
                self._is_heard = is_listening
            case m.Seen(name):
                self._seen(name)
            case m.Applied(name, txid):
                self._take_applied(name, txid)
            case m.SetLag(timestamp_ms):
                self._operations.view.primary_timestamp_ms = timestamp_ms
            case m.SetRole(primary_until):
                self._store.gate.primary_until = primary_until
                self._on_role()
            case m.SetPrimary(hostname):
                self._operations.view.primary = hostname
                self._operations.inodes.root.note_change()  # a listing that the kernel keeps is out of date
            case m.KeepLogs(needed, is_last):
                self._needed |= needed
                if is_last:
                    self._store.needed, self._needed = self._needed, {}
            case m.CloseSnapshot(snapshot_id):
                self._close_snapshot(snapshot_id)

    def _counters(self) -> m.Counters:
        latencies = {name: served.database.commit_latency for name, served in self._store.databases.items()}
        return m.Counters(
            refused_n=dict(self._operations.refused_n),
            commit_latencies={name: (latency.counts, latency.sum_s) for name, latency in latencies.items()},
        )

    def _seen(self, name: str) -> None:
        told = self._told.pop(name, None)
        served = self._store.databases.get(name)
        if served is not None and told is not None and (served.database.txid, served.database.checksum) != told:
            self.committed(served.database)

    def _take_applied(self, name: str, txid: int) -> None:
        """An image whose pages are there already, but which names another state, is no transaction: nothing moved."""
        self._show(name, txid)
        served = self._store.databases.get(name)
        if served is not None and served.database.txid < txid:
            self._send(m.NotReached(name, txid))

    def _show(self, name: str, txid: int) -> None:
        served = self._store.databases.get(name)
        if served is not None:
            served.database.show_position(txid)

    async def _append_images(self, name: str, images: list[bytes]) -> m.Answer:
        database = self._database(name)
        txid = 0
        for number, image in enumerate(images, 1):
            if not number % IMAGES_AT_ONCE:
                await self._loop.yield_now()
            try:
                if not database.log.has_room(len(image)):
                    await self._loop.drive(database.log.make_room(len(image)))
                txid = append_image(database, image)
            except DiskLostError:
                raise
            except (LiteFSError, OSError) as error:
                if not txid:
                    raise
                return m.Appended(name, txid, str(error))
        return m.Appended(name, txid)

    async def _append_spooled(self, name: str, path: str) -> m.Answer:
        spool = self._store.data_dir.path / "spool"
        if Path(path).parent != spool:
            raise FormatError(f"{path} is not in the spool directory")
        txid = await self._loop.drive(append_spooled(self._database(name), Path(path)))
        return m.Appended(name, txid)

    def _database(self, name: str) -> Database:
        served = self._store.databases.get(name)
        if served is None:
            served = self._store.create(name, shows=False)
        return served.database

    def _open_snapshot(self, name: str) -> m.Answer:
        served = self._store.databases.get(name)
        if served is None:
            return self._rejected(name, "no such database")
        snapshot_id = self._next_snapshot
        self._next_snapshot += 1
        opened = open_snapshot(served.database, snapshot_id)
        self._snapshots[snapshot_id] = served.database
        return opened

    def _close_snapshot(self, snapshot_id: int) -> None:
        database = self._snapshots.pop(snapshot_id, None)
        if database is not None:
            database.base.close_aside(snapshot_id)

    async def _prepare_replacement(self, request: m.PrepareReplacement) -> m.Answer:
        name = request.name
        database = self._database(name)
        state = DatabaseState(
            base_txid=request.txid,
            checksum=request.checksum,
            page_size=request.page_size,
            page_n=request.page_n,
            timestamp_ms=request.timestamp_ms,
            group=database.group,
            after_txid=database.log.last_txid,
            incoming=request.incoming,
        )
        directory = self._store.directory(name)
        disk, data_dir = self._store.disk, self._store.data_dir

        def prepare() -> None:
            aside = ""
            if request.keeps_diverged:
                aside = place_for_old_state(
                    disk,
                    data_dir.path,
                    directory,
                    new_txid=state.base_txid,
                    last_txid=state.after_txid,
                    node_id=data_dir.node_id,
                )
            replacement.prepare_replacement(disk, directory, msgspec.structs.replace(state, aside=aside))

        try:
            await self._loop.drive(database.alone(prepare))
        except OSError:
            discard_incoming(disk, directory, request.incoming)
            raise
        self._store.databases[name].is_being_replaced = True
        inodes = self._operations.inodes
        mount_name = REPLACEMENT_PREFIX + name
        old = inodes.by_name.get(name)
        if mount_name not in inodes.by_name:
            like = old or inodes.root
            inodes.add(Kind.REPLACEMENT, mount_name, like.mode & 0o666, like.uid, like.gid)
        return m.ReplacementReady(name, mount_name)

    def _rejected(self, name: str, reason: str) -> m.Rejected:
        served = self._store.databases.get(name)
        if served is None:
            return m.Rejected(name, reason)
        return m.Rejected(name, reason, served.database.txid, served.database.checksum)


def _info(database: Database) -> m.DatabaseInfo:
    return m.DatabaseInfo(
        name=database.name,
        txid=database.txid,
        checksum=database.checksum,
        logged_txid=database.logged_txid,
        page_size=database.page_size,
        page_n=database.page_n,
        is_wal=database.wal_mode,
        timestamp_ms=database.timestamp_ms,
    )
