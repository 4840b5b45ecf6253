"""A node for the HTTP API without mount and link: databases are pages in memory, their logs are real."""

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from litefs.errors import HandoffRefusedError, NotCandidateError, NotPrimaryError
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, database_checksum, page_checksum
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, NodeId, Pos, Txid
from litefs.link.messages import (
    Answer,
    AskCounters,
    CloseSnapshot,
    Committed,
    Counters,
    DatabaseInfo,
    KeepLogs,
    OpenSnapshot,
    Rejected,
    SnapshotOpened,
)
from litefs.node.lease_watch import RoleCounters
from litefs.node.node_status import NodeStatus
from litefs.storage.disk import Disk
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.latency import BOUNDS_S
from litefs.storage.log import Log

NODE_ID = 0x0123456789ABCDEF
TIMESTAMP_MS = 1_700_000_000_190


class FakeDatabase:
    """One database: its pages, its position, its log."""

    def __init__(self, data_dir: Path, name: str, page_size: int, segment_bytes: int) -> None:
        self.name = name
        self.directory = data_dir / "dbs" / name
        (self.directory / "log").mkdir(parents=True)
        self.page_size = page_size
        self.pages: dict[int, bytes] = {}
        self.txid = 0
        self.checksum = 0
        self.log = Log(Disk(), self.directory / "log", segment_bytes)

    @property
    def pos(self) -> Pos:
        return Pos(txid=Txid(self.txid), checksum=Checksum(self.checksum))

    @property
    def content(self) -> bytes:
        return b"".join(self.pages[pgno] for pgno in sorted(self.pages))

    def info(self) -> DatabaseInfo:
        return DatabaseInfo(
            name=self.name,
            txid=self.txid,
            checksum=self.checksum,
            logged_txid=self.txid,
            page_size=self.page_size if self.txid else 0,
            page_n=len(self.pages),
            is_wal=False,
            timestamp_ms=TIMESTAMP_MS,
        )

    def image(self, pages: Mapping[int, bytes], *, drop: bool = False) -> tuple[bytes, int]:
        """Returns the image of the next transaction and the checksum after it."""
        after = {} if drop else self.pages | dict(pages)
        sums = (page_checksum(pgno, data) for pgno, data in after.items())
        post_apply = database_checksum(sums) | CHECKSUM_FLAG if after else EMPTY_DATABASE_CHECKSUM
        header = LtxHeader(
            flags=FLAG_LZ4,
            page_size=self.page_size,
            commit=len(after),
            min_txid=Txid(self.txid + 1),
            max_txid=Txid(self.txid + 1),
            timestamp_ms=TIMESTAMP_MS,
            pre_apply=Checksum(self.checksum),
            node_id=NodeId(NODE_ID),
        )
        return encode_image(header, sorted(pages.items()), post_apply), post_apply


class FakeNode:
    """What `NodeView` asks for. Its methods are called on the threads of the server and of the test."""

    def __init__(self, data_dir: Path, *, primary: bool = True) -> None:
        self.data_dir = data_dir
        self.standing = NodeStatus(
            node_id=NODE_ID,
            cluster_id="LFSC0123456789ABCDEF",
            is_primary=primary,
            candidate=primary,
            primary_hostname="primary",
            ready=primary,
            lag_ms=0 if primary else None,
            role="primary" if primary else "replica",
            lease_remaining_s=math.inf if primary else 0.0,
        )
        self.all: dict[str, FakeDatabase] = {}
        self.open_snapshots: set[int] = set()
        self.snapshot_n = 0
        self.connected: set[int] = set()
        """Replicas that the lease can be handed to."""
        self.handed_to: list[int] = []
        self.handoff_timeouts_s: list[float] = []
        self._random = random.Random(1)
        self.may_import = threading.Event()
        """Imports wait for it, as for an application that holds a lock."""
        self.may_import.set()
        self.importing: list[str] = []
        """Databases whose imports wait for it, or have waited."""
        self._lock = threading.Lock()
        self._committed: Callable[[Committed], None] = lambda _event: None
        self.is_listening = False
        self.look_n = 0
        self.needed: list[dict[str, list[int]]] = []
        """What was said of the logs, newest last."""

    def until_looked_at(self) -> None:
        """Returns when somebody has asked three more times where this node stands: who waits for news does."""
        enough_n = self.look_n + 3
        while self.look_n < enough_n:
            time.sleep(0.001)

    # ---- NodeView ----

    def status(self) -> NodeStatus:
        self.look_n += 1
        return self.standing

    def databases(self) -> Mapping[str, DatabaseInfo]:
        return {name: database.info() for name, database in self.all.items()}

    def on_committed(self, callback: Callable[[Committed], None]) -> None:
        self._committed = callback

    def set_listening(self, is_listening: bool) -> None:
        self.is_listening = is_listening

    def promote(self) -> None:
        if self.standing.is_primary:
            return
        if not self.standing.candidate:
            raise NotCandidateError("not eligible to become primary")
        self.standing = replace(self.standing, is_primary=True)

    def handoff(self, node_id: int) -> None:
        if not self.standing.is_primary:
            raise HandoffRefusedError("cannot handoff: node is not currently primary")
        if node_id not in self.connected:
            raise HandoffRefusedError("cannot handoff: target node is not currently connected")
        self.handed_to.append(node_id)

    def handoff_to_freshest(self, timeout_s: float) -> int | None:
        self.handoff_timeouts_s.append(timeout_s)
        return max(self.connected, default=None) if self.standing.is_primary else None

    def leave(self) -> None:
        self.standing = replace(self.standing, candidate=False)

    def counters(self) -> RoleCounters:
        return RoleCounters(promotions=1)

    def call(self, message: OpenSnapshot | AskCounters) -> Answer:
        """Freezes a database by copying it: base complete, nothing in the log, nothing aside."""
        if isinstance(message, AskCounters):
            counts = [0] * (len(BOUNDS_S) + 1)
            counts[2] = 3
            return Counters(refused_n={"not-primary": 2}, commit_latencies=dict.fromkeys(self.all, (counts, 0.0015)))
        with self._lock:
            database = self.all.get(message.name)
            if database is None or not database.pages:
                return Rejected(name=message.name, reason="database not found")
            self.snapshot_n += 1
            directory = database.directory / f"snapshot-{self.snapshot_n}"
            directory.mkdir()
            (directory / "base").write_bytes(database.content)
            (directory / "aside").touch()
            (directory / "map").write_bytes(bytes(len(database.pages) + 1))
            self.open_snapshots.add(self.snapshot_n)
            return SnapshotOpened(
                snapshot_id=self.snapshot_n,
                name=database.name,
                txid=database.txid,
                checksum=database.checksum,
                page_size=database.page_size,
                page_n=len(database.pages),
                timestamp_ms=TIMESTAMP_MS,
                base_txid=database.txid,
                base_path=str(directory / "base"),
                aside_path=str(directory / "aside"),
                aside_map_path=str(directory / "map"),
            )

    def send(self, message: CloseSnapshot | KeepLogs) -> None:
        if isinstance(message, KeepLogs):
            self.needed.append(message.needed)
        else:
            self.open_snapshots.remove(message.snapshot_id)

    def open_replacement(self, name: str, page_size: int, page_n: int) -> "FakeReplacement":
        if not self.standing.is_primary:
            raise NotPrimaryError("lease expired")
        return FakeReplacement(self, name, page_size, page_n)

    # ---- what an application would do ----

    def create(self, name: str, *, page_size: int = 512, segment_bytes: int = 1 << 20) -> FakeDatabase:
        database = self.all[name] = FakeDatabase(self.data_dir, name, page_size, segment_bytes)
        return database

    def commit(self, name: str, *pgnos: int, publish: bool = True) -> Pos:
        """Commits random content into pages."""
        database = self.all[name]
        pages = {pgno: self._random.randbytes(database.page_size) for pgno in pgnos}
        with self._lock:
            image, post_apply = database.image(pages)
            self._append(database, image, post_apply)
            database.pages |= pages
        if publish:
            self.publish(name)
        return database.pos

    def prepare(self, name: str, *pgnos: int) -> None:
        """Puts an image into the log that is not committed, and may never be."""
        database = self.all[name]
        pages = {pgno: self._random.randbytes(database.page_size) for pgno in pgnos}
        image, post_apply = database.image(pages)
        database.log.append(image, database.txid + 1, database.txid + 1, post_apply)

    def drop(self, name: str) -> Pos:
        database = self.all[name]
        with self._lock:
            image, post_apply = database.image({}, drop=True)
            self._append(database, image, post_apply)
            database.pages = {}
        self.publish(name)
        return database.pos

    def publish(self, name: str) -> None:
        event = Committed(database=self.all[name].info())
        self._committed(event)

    @staticmethod
    def _append(database: FakeDatabase, image: bytes, post_apply: int) -> None:
        database.txid += 1
        database.log.append(image, database.txid, database.txid, post_apply)
        database.checksum = post_apply

    def close(self) -> None:
        for database in self.all.values():
            database.log.close()


class FakeReplacement:
    """Writes the real incoming files, and flips by reading them back."""

    def __init__(self, node: FakeNode, name: str, page_size: int, page_n: int) -> None:
        self._node = node
        self._name = name
        self._page_size = page_size
        self._directory = node.data_dir / "dbs" / name
        self._directory.mkdir(parents=True, exist_ok=True)
        self._incoming: IncomingDatabase | None = IncomingDatabase(self._directory, page_size, page_n)

    def write_pages(self, first_pgno: int, data: bytes | memoryview) -> None:
        assert self._incoming is not None
        self._incoming.write_pages(first_pgno, data)

    def commit(self) -> None:
        assert self._incoming is not None
        self._node.importing.append(self._name)
        assert self._node.may_import.wait(20.0)
        checksum, path = self._incoming.finish(), self._directory / self._incoming.name
        self._incoming = None
        content = path.read_bytes()
        database = self._node.all.get(self._name)
        if database is None:
            self._directory.rename(self._directory.with_suffix(".incoming"))
            database = self._node.create(self._name)
        size = database.page_size = self._page_size
        database.pages = {i // size + 1: content[i : i + size] for i in range(0, len(content), size)}
        database.txid += 1
        database.checksum = checksum
        self._node.publish(self._name)

    def abort(self) -> None:
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None
