"""The databases of a replica: one applier each, their positions, and their replacement as a whole."""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from litefs.errors import CorruptStateError, LinkClosedError, LiteFSError, PeerError
from litefs.formats.ltx_decoder import decode_image
from litefs.formats.position import Checksum, Pos, Txid
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE
from litefs.link import messages as m
from litefs.node.applier import DatabaseApplier, Image
from litefs.node.link_client import LinkClient
from litefs.node.shm_guard import ShmGuard
from litefs.storage.log_reader import LogReader

_log = logging.getLogger("litefs.node")


class Replicas:
    """What a following node does to its databases. Used by the follower's thread, but for `tell`."""

    def __init__(self, link: LinkClient, mount_dir: str, data_dir: Path, guard: ShmGuard) -> None:
        """Args: guard: knows the wal-indexes of the mount."""
        self._link = link
        self._mount_dir = mount_dir
        self._data_dir = data_dir
        self._guard = guard
        self._appliers: dict[str, DatabaseApplier] = {}
        self._positions: dict[str, Pos] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def start(self, databases: Mapping[str, m.DatabaseInfo]) -> None:
        """Takes the databases over, applying first what lies in their logs already."""
        for info in databases.values():
            position = Pos(txid=Txid(info.txid), checksum=Checksum(info.checksum))
            self._positions[info.name] = position
            if info.logged_txid > info.txid:
                try:
                    self._apply_logged(info)
                except LiteFSError as error:
                    _log.warning("%s: images in the log cannot be applied: %s", info.name, error)
                    self._positions[info.name] = Pos(txid=Txid(0), checksum=Checksum(0))
            elif info.page_n:
                self._applier(info.name)

    def _apply_logged(self, info: m.DatabaseInfo) -> None:
        reader = LogReader(self._data_dir / "dbs" / info.name / "log")
        try:
            for ref in reader.images(info.txid + 1, info.logged_txid):
                header, pages, trailer = decode_image(reader.read(ref, 0, ref.size))
                first = pages[0][1][:DATABASE_HEADER_SIZE] if pages and pages[0][0] == 1 else b""
                image = Image(header=header, pages=lambda pages=pages: pages, first_page=first)  # type: ignore[misc]
                position = Pos(txid=Txid(header.max_txid), checksum=Checksum(trailer.post_apply))
                self.apply(info.name, image, position)
        finally:
            reader.close()

    def stop(self) -> None:
        """Lets go of all databases."""
        for applier in self._appliers.values():
            applier.stop()

    def positions(self) -> dict[str, Pos]:
        """Returns where each database stands in the log, for the primary to continue."""
        with self._lock:
            failed, self._failed = self._failed, set()
        for name in failed:
            self._positions[name] = Pos(txid=Txid(0), checksum=Checksum(0))
        return {name: pos for name, pos in self._positions.items() if pos.txid}

    def is_known(self, name: str) -> bool:
        """The database has a position here, so that an image may follow it."""
        position = self._positions.get(name)
        return position is not None and position.txid > 0

    def tell(self, message: msgspec.Struct) -> None:
        """Tells the filesystem process something without an answer; a closed link is found out elsewhere."""
        try:
            self._link.send(message)
        except LinkClosedError:
            return

    def call(self, message: msgspec.Struct) -> m.Answer:
        """Asks the filesystem process.

        Raises:
            PeerError: images of a database keep failing: the connection is given up for a snapshot.
            LinkClosedError: it is gone.
        """
        with self._lock:
            if self._failed:
                raise PeerError(f"{', '.join(self._failed)}: cannot be applied, asking for a snapshot")
        return self._link.call(message)

    def apply(self, name: str, image: Image, position: Pos) -> None:
        """Queues an image that is in the log."""
        self._positions[name] = position
        self._applier(name).apply(image)

    def replace(self, request: m.PrepareReplacement) -> None:
        """Puts the state in the incoming files in the place of a database.

        Raises:
            LiteFSError, OSError: the old state stands, or the new one does after the next start.
        """
        name = request.name
        self._applier(name).run_exclusively(lambda: self._flip(request))
        self._positions[name] = Pos(txid=Txid(request.txid), checksum=Checksum(request.checksum))

    def _flip(self, request: m.PrepareReplacement) -> None:
        answer = self._link.call(request)
        if not isinstance(answer, m.ReplacementReady):
            raise CorruptStateError(f"{request.name}: {getattr(answer, 'reason', answer)}")
        flip(self._mount_dir, answer, self._guard)

    def _applier(self, name: str) -> DatabaseApplier:
        applier = self._appliers.get(name)
        if applier is None:
            applier = self._appliers[name] = DatabaseApplier(self._mount_dir, name, self._on_failed)
            applier.start()
        return applier

    def _on_failed(self, name: str) -> None:
        with self._lock:
            self._failed.add(name)


def flip(mount_dir: str, ready: m.ReplacementReady, guard: ShmGuard) -> None:
    """Carries out a prepared replacement through the mount: the rename is what everybody sees at once.

    Connections opened before are dead: their database answers ESTALE, and their wal-index is void.
    """
    path = os.path.join(mount_dir, ready.name)
    guard.zero(ready.name)
    for suffix in ("-shm", "-wal", "-journal"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue
    os.rename(os.path.join(mount_dir, ready.mount_name), path)
