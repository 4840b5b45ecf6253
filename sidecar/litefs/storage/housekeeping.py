"""What a store does by itself, behind the commits: sync, settle, checkpoint the log, forget, prepare segments.

Strategy: one pass over the databases that have something to do; every wait is a step. Nothing here
changes what anybody reads.

    settle       sync the log, then write committed pages into the base
    checkpoint   base complete through N: sync the base, then the state file says S = N
    forget       segments whose images are at or before S and older than the retention go, but what replicas need
"""

import logging
import time
from collections.abc import Callable, Sequence

from litefs.storage.database import Database
from litefs.storage.state import DatabaseState, write_state
from litefs.storage.steps import Steps

CHECKPOINT_LOG_BYTES = 32 << 20
"""So much log after S makes a checkpoint due: recovery reads it in well under a second."""

CHECKPOINT_AGE_S = 30.0
"""And so does this age, so that an idle database starts from its base alone."""

SPARE_RETRY_S = 5.0
"""After a segment did not fit on the disk: else each commit would fill what is left of it, and free it again."""

_log = logging.getLogger("litefs.storage")


class Housekeeper:
    """Does the work that is due for the databases of a store."""

    def __init__(
        self,
        retention_s: float,
        kept_for_replicas_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: retention_s: images younger than this stay in the log; kept_for_replicas_bytes: older ones that a
        replica needs stay while the log is no larger than this, and than what is free on the disk; clock: in seconds.
        """
        self._retention_s = retention_s
        self._kept_bytes = kept_for_replicas_bytes
        self._clock = clock
        self._spare_due: dict[str, float] = {}  # name → when to try again, where there was no room
        self._checkpointed: dict[str, tuple[int, float, int]] = {}  # name → (txid, when, log bytes written)

    def settle(self, database: Database) -> Steps[None]:
        """Makes what is committed durable and brings it into the base. For databases that are not settled.

        Raises:
            OSError: the log could not be synced: the process must stop.
        """
        yield from database.sync_log()
        try:
            yield from database.settle()
        except OSError as error:
            _log.warning("%s: base file: %s; the pages wait", database.name, error)

    def prepare_segment(self, database: Database) -> Steps[None]:
        """Makes the next log segment ready before it is needed. A full disk here fails no commit."""
        log = database.log
        if not log.wants_spare() or self._clock() < self._spare_due.get(database.name, 0.0):
            return
        capacity = log.spare_capacity()
        try:
            with log.in_use():
                log.take_spare((yield lambda: log.make_spare(capacity)))
            self._spare_due.pop(database.name, None)
        except OSError as error:
            self._spare_due[database.name] = self._clock() + SPARE_RETRY_S
            _log.warning("%s: next log segment: %s", database.name, error)

    def checkpoint_due(self, database: Database, now_s: float) -> bool:
        """The base held everything at some position after S, and enough has happened since S."""
        database.note_complete()
        if database.base.is_retired or database.complete.base_txid <= database.base_txid or database.base.is_doubtful:
            return False
        _, when, size = self._checkpointed.setdefault(
            database.name, (database.base_txid, now_s, database.log.size_bytes)
        )
        return now_s - when >= CHECKPOINT_AGE_S or database.log.size_bytes - size >= CHECKPOINT_LOG_BYTES

    def checkpoint(self, database: Database, now_s: float) -> Steps[None]:
        """Moves S to the last position that the base was known to hold all of.

        Crash: before the state file is replaced S is the old one, and the log still holds everything after it.

        Raises:
            OSError: S stays; try again later.
        """
        state = database.complete
        base, disk, directory = database.base, database.disk, database.directory
        with base.in_use():
            yield base.sync
        if base.is_retired or database.is_state_busy:
            return  # replaced meanwhile, or about to be: the state file is of the new base
        if state.base_txid <= database.base_txid:
            return  # another checkpoint went further, and what it left behind may be forgotten already
        database.is_state_busy = True
        try:
            yield lambda: write_state(disk, directory, state)
        finally:
            database.is_state_busy = False
        self.moved(database, state, now_s)

    def moved(self, database: Database, state: DatabaseState, now_s: float) -> None:
        """Takes note that the state file says `state`."""
        if database.base_txid < state.base_txid <= database.txid:
            database.base_txid = state.base_txid
        self._checkpointed[database.name] = (state.base_txid, now_s, database.log.size_bytes)

    def forget(self, database: Database, now_s: float, needed: Sequence[int] = ()) -> Steps[None]:
        """Removes old log segments, off the loop.

        Args:
            needed: replicas need what comes behind these transactions, ascending.

        Raises:
            OSError: some stay until the next start.
        """
        through = database.base_txid
        for aside in database.base.asides.values():
            through = min(through, aside.base_txid)
        log = database.log
        kept_bytes = 0
        if needed and self._kept_bytes:
            kept_bytes = min(self._kept_bytes, database.disk.free_bytes("log.free", database.directory))
        doomed = log.forget(through, now_s - self._retention_s, needed, kept_bytes)
        if doomed:
            with log.in_use():
                yield lambda: log.remove(doomed)
            _log.debug("%s: log begins at %016x", database.name, log.first_txid())
