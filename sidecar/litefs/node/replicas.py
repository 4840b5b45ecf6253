"""The databases of a replica: one applier each, their positions, and their replacement as a whole."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from litefs.errors import CorruptStateError, LinkClosedError, PositionMismatchError
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from litefs.link import messages as m
from litefs.node.applier import DatabaseApplier
from litefs.node.link_client import LinkClient
from litefs.node.shm_guard import ShmGuard
from litefs.node.takeover import TAKEOVERS_MAX, ArrivedImage, Takeover
from litefs.storage.log_reader import LogGapError, LogReader

SETTLE_CHECK_S = 0.001
"""An image is applied in about a millisecond, and a handoff waits for the last one."""

_log = logging.getLogger("litefs.node")


class Replicas:
    """What a following node does to its databases.

    The follower's thread brings what comes; the role driver's starts, settles and ends it. Takeovers and appliers have
    threads of their own, and report here on these.

    Attributes:
        on_taken_over: called on another thread when a snapshot is in place.
    """

    def __init__(
        self, link: LinkClient, mount_dir: str, data_dir: Path, guard: ShmGuard, on_failed: Callable[[], None]
    ) -> None:
        """Args: guard: knows the wal-indexes; on_failed: called when `positions` should be asked for anew."""
        self._link = link
        self._mount_dir = mount_dir
        self._data_dir = data_dir
        self._guard = guard
        self._on_failed = on_failed
        self._appliers: dict[str, DatabaseApplier] = {}
        self._positions: dict[str, Pos] = {}
        self._failed: set[str] = set()
        self._takeovers: dict[str, Takeover] = {}
        self._lacks_snapshot = False
        """One of those that came since the positions were told could not be put in place."""
        self._slots = threading.Semaphore(TAKEOVERS_MAX)
        self.on_taken_over: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._is_stopped = False

    def start(self, databases: Mapping[str, m.DatabaseInfo]) -> None:
        """Takes the databases over, applying first what lies in their logs already."""
        for info in databases.values():
            applier = self._applier(info.name, info.txid)
            self._positions[info.name] = Pos(txid=Txid(info.txid), checksum=Checksum(info.checksum))
            if info.logged_txid > info.txid:
                # What the log ends with is known here by its number alone: the last image tells the checksum.
                self._positions[info.name] = self._last_logged(info)
                applier.apply_logged(info.logged_txid)

    def _last_logged(self, info: m.DatabaseInfo) -> Pos:
        reader = LogReader(self._data_dir / "dbs" / info.name / "log")
        try:
            *_, last = reader.images(info.txid + 1, info.logged_txid)
            return Pos(txid=Txid(last.max_txid), checksum=Checksum(last.post_apply))
        except LogGapError as error:
            _log.warning("%s: a snapshot is needed: %s", info.name, error)
            return ZERO_POS
        finally:
            reader.close()

    def stop(self) -> None:
        """Lets go of all databases."""
        self._is_stopped = True
        for applier in list(self._appliers.values()):
            applier.stop()

    def join(self, timeout_s: float) -> bool:
        """Waits for the end of all appliers and takeovers after `stop`. Returns whether every database is free."""
        deadline = time.monotonic() + timeout_s
        under_way: list[DatabaseApplier | Takeover] = [*self._appliers.values(), *self._takeovers.values()]
        return all(each.join(max(deadline - time.monotonic(), 0.0)) for each in under_way)

    def settle(self, timeout_s: float) -> str:
        """Waits until readers see all that is in the logs.

        Returns:
            The names of the databases where they do not after `timeout_s` seconds; "" if there are none.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            behind = list(self._takeovers)
            behind += [name for name, applier in list(self._appliers.items()) if not applier.is_settled]
            if not behind or time.monotonic() >= deadline or self._is_stopped:
                return ", ".join(sorted(set(behind)))
            time.sleep(SETTLE_CHECK_S)

    def positions(self) -> dict[str, Pos]:
        """Returns where each database stands in the log, for the primary to continue. Waits for the takeovers."""
        for takeover in list(self._takeovers.values()):
            takeover.join()
        self._lacks_snapshot = False
        with self._lock:
            failed = set(self._failed)
        return {name: pos for name, pos in self._positions.items() if pos.txid and name not in failed}

    def position(self, name: str) -> Pos:
        """Returns where the log of a database ends: nothing but its next image, or a snapshot, can follow."""
        takeover = self._takeovers.get(name)
        if takeover is not None and takeover.error is None:
            return takeover.to
        return self._positions.get(name, ZERO_POS)

    @property
    def is_taking_over(self) -> bool:
        """A snapshot that has come is not in place yet, or could not be put there and has to come again."""
        return self._lacks_snapshot or bool(self._takeovers)

    def waiting_since_ms(self) -> int | None:
        """Returns the time stamp of the oldest image that waits, for an application or the disk; None if none does."""
        waiting = [takeover.since_ms for takeover in list(self._takeovers.values())]
        appliers = list(self._appliers.values())  # more of them come on the threads of takeovers
        waiting += [since for applier in appliers if (since := applier.waiting_since_ms) is not None]
        return min(waiting, default=None)

    def tell(self, message: msgspec.Struct) -> None:
        """Tells the filesystem process something without an answer; a closed link is found out elsewhere."""
        try:
            self._link.send(message)
        except LinkClosedError:
            return

    def append(self, name: str, arrived: Sequence[ArrivedImage]) -> None:
        """Puts images into the log and has them applied.

        Args:
            arrived: at least one, in their order.

        Raises:
            PositionMismatchError: one does not follow what is in the log. Those before it are in there.
            LinkClosedError: the filesystem process is gone.
        """
        takeover = self._takeovers.get(name)
        if takeover is None or not takeover.keep(arrived):
            self._append(name, arrived)

    def _append(self, name: str, arrived: Sequence[ArrivedImage]) -> None:
        applier = self._applier(name, self._positions.get(name, ZERO_POS).txid)
        for each in arrived:
            applier.offer(each.image)
        logged_txid = 0
        try:
            answer = self._link.call(m.AppendImages(name, [each.encoded for each in arrived]))
            if not isinstance(answer, m.Appended):
                raise PositionMismatchError(getattr(answer, "reason", f"unexpected answer {answer}"))
            for each in arrived:
                if each.to.txid <= answer.txid:
                    self._positions[name] = each.to
                    logged_txid = each.to.txid
        finally:
            applier.logged(logged_txid)
        if answer.reason:
            raise PositionMismatchError(answer.reason)

    def append_spooled(self, name: str, path: Path, to: Pos) -> None:
        """The same for one image that lies in a file.

        Args:
            to: the position after it.
        """
        self._await_takeover(name)
        answer = self._link.call(m.AppendSpooledImage(name, str(path)))
        if not isinstance(answer, m.Appended):
            raise PositionMismatchError(getattr(answer, "reason", f"unexpected answer {answer}"))
        applier = self._applier(name, self._positions.get(name, ZERO_POS).txid)
        self._positions[name] = to
        applier.apply_logged(to.txid)

    def take_over(
        self,
        name: str,
        to: Pos,
        since_ms: int,
        finish: Callable[[], m.PrepareReplacement],
        on_done: Callable[[], None],
    ) -> None:
        """Begins to put a snapshot in the place of a database. What follows it may be appended at once.

        Where it fails the old state stands, or the new one does after the next start, and `on_failed` is called.

        Args:
            to: the position of the snapshot.
            since_ms: when it began to come, Unix milliseconds.
            finish: makes the incoming files durable; on_done: called when readers see the new state.
        """

        def work() -> None:
            self._replace(finish())
            on_done()

        self._await_takeover(name)
        self._slots.acquire()
        takeover = Takeover(name, to, since_ms, work, lambda arrived: self._append(name, arrived), self._over)
        self._takeovers[name] = takeover
        takeover.start()

    def _await_takeover(self, name: str) -> None:
        takeover = self._takeovers.get(name)
        if takeover is not None:
            takeover.join()

    def _over(self, takeover: Takeover) -> None:
        if takeover.error is not None:
            self._lacks_snapshot = True
        del self._takeovers[takeover.name]
        self._slots.release()
        if takeover.error is None:
            self.on_taken_over()
        else:
            self._on_failed()

    def _replace(self, request: m.PrepareReplacement) -> None:
        name = request.name
        applier = self._applier(name, self._positions.get(name, ZERO_POS).txid)
        applier.replace(lambda: self._flip(request), request.txid)
        self._positions[name] = Pos(txid=Txid(request.txid), checksum=Checksum(request.checksum))
        with self._lock:
            self._failed.discard(name)

    def _flip(self, request: m.PrepareReplacement) -> None:
        answer = self._link.call(request)
        if not isinstance(answer, m.ReplacementReady):
            raise CorruptStateError(f"{request.name}: {getattr(answer, 'reason', answer)}")
        flip(self._mount_dir, answer, self._guard)
        if not request.page_n:  # the primary dropped it
            os.unlink(os.path.join(self._mount_dir, request.name))

    def _applier(self, name: str, applied_txid: int) -> DatabaseApplier:
        applier = self._appliers.get(name)
        if applier is None:
            log_dir = self._data_dir / "dbs" / name / "log"
            applier = DatabaseApplier(self._mount_dir, log_dir, name, applied_txid, self._failed_one, self._applied_one)
            self._appliers[name] = applier
            applier.start()
            if self._is_stopped:
                applier.stop()
        return applier

    def _applied_one(self, name: str, txid: int) -> None:
        self.tell(m.Applied(name, txid))

    def not_reached(self, name: str, txid: int) -> None:
        """Takes note that what was applied is not the state of an image. From any thread."""
        applier = self._appliers.get(name)
        if applier is not None:
            applier.give_up(f"image {txid:016x} does not lead to the state that it names")

    def _failed_one(self, name: str) -> None:
        with self._lock:
            self._failed.add(name)
        self._on_failed()


def flip(mount_dir: str, ready: m.ReplacementReady, guard: ShmGuard) -> None:
    """Carries out a prepared replacement through the mount: the rename is what everybody sees at once.

    Connections opened before are dead: the attributes of database and WAL are ESTALE from then on. A WAL connection
    that believes its cache is told by its voided wal-index, and cannot rebuild that without the WAL's size.

    The side files go first, or the new database would be read through them; until the rename nobody else can
    make new ones.
    """
    path = os.path.join(mount_dir, ready.name)
    for suffix in ("-shm", "-wal", "-journal"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue
    os.rename(os.path.join(mount_dir, ready.mount_name), path)
    guard.zero(ready.name)
