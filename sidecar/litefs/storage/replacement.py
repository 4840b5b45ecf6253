"""Putting a whole new state in the place of a database: snapshots from the primary, imports, restores.

Strategy: the state lies complete and synced in the incoming files (`incoming`). *Prepare* writes the
state file of the future beside the present one; from then on recovery finishes the replacement. *Flip*
only renames. The new state starts with an empty log: S is its position.

Crash, by step of `finish`, which recovery calls as well:
    before `state.next` is durable      the old state stands; the incoming files are left-overs
    after it, whatever was renamed      recovery goes forward: what is called log is of the old state, for no commit
                                        of the new one is durable before all renames are; incoming, if it is
                                        there, becomes the base; `state.next` → `state` is durable last
"""

import logging
import secrets
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

from litefs.errors import CommitRefusedError, DiskLostError, NotPrimaryError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum
from litefs.storage.database import BASE_NAME, LOG_NAME, Database
from litefs.storage.disk import Disk
from litefs.storage.incoming import INCOMING_NAME, SUMS_NAME, IncomingDatabase, read_sums
from litefs.storage.recovery import scan_log
from litefs.storage.state import NEXT_STATE_NAME, STATE_NAME, DatabaseState, PlannedState, read_state, write_state
from litefs.storage.steps import Steps

OLD_LOG_NAME = "log.replaced"

COPY_BYTES = 256 << 10
"""Between two chances for others: whole pages of every size, below a millisecond of work."""

ReadAt = Callable[[int, int], bytes]

_log = logging.getLogger("litefs.storage")


def prepare_replacement(disk: Disk, directory: Path, state: DatabaseState) -> None:
    """Makes the replacement certain to happen: now by `finish`, or at the next start.

    Raises:
        OSError: the old state stands.
        DiskLostError: either state may be found after a restart, so the process must not go on.
    """
    try:
        # Crash: `state.next` without the incoming file reads as a replacement that was carried out, and in a
        # directory without a durable name both are lost with it.
        for path in (directory, directory.parent):
            disk.sync_directory("replacement.parents", path)
        write_state(disk, directory, state, NEXT_STATE_NAME)
    except OSError:
        cancel_replacement(disk, directory)
        raise


def cancel_replacement(disk: Disk, directory: Path) -> None:
    """Takes a prepared replacement back, durably.

    Raises:
        DiskLostError: it may happen at the next start, so the process must not go on.
    """
    path = directory / NEXT_STATE_NAME
    try:
        if path.exists():
            disk.unlink("replacement.cancel", path)
            disk.sync_directory("replacement.cancel_directory", directory)
    except OSError as error:
        raise DiskLostError(f"cannot cancel {path}: {error}") from error


def finish(disk: Disk, directory: Path) -> bool:
    """Carries out a prepared replacement by renames only. Returns False if none is prepared.

    Raises:
        CorruptStateError: `state.next` cannot be believed.
        OSError: a start will finish it.
    """
    if read_state(directory, NEXT_STATE_NAME) is None:
        return False
    incoming, log_dir, old_log = directory / INCOMING_NAME, directory / LOG_NAME, directory / OLD_LOG_NAME
    if log_dir.exists():
        if old_log.exists():
            disk.remove_tree("replacement.old_log", old_log)
        disk.rename("replacement.log", log_dir, old_log)
    if incoming.exists():
        disk.rename("replacement.base", incoming, directory / BASE_NAME)
    disk.make_directory("replacement.new_log", log_dir)
    # Crash: the new state file beside the old base would be damage, so the base must be there first.
    disk.sync_directory("replacement.directory", directory)
    disk.rename("replacement.state", directory / NEXT_STATE_NAME, directory / STATE_NAME)
    return True


def finish_at_start(disk: Disk, directory: Path) -> None:
    """Finishes a replacement that the last life prepared, unless commits followed that it does not know of.

    Raises:
        CorruptStateError: a state file or the log cannot be believed.
        OSError: the disk failed.
    """
    planned = read_state(directory, NEXT_STATE_NAME)
    if planned is None:
        return
    log_dir = directory / LOG_NAME
    if (directory / INCOMING_NAME).exists() and log_dir.exists():
        found = scan_log(disk, log_dir)
        found.close(disk)
        if found.last_txid() > planned.after_txid:
            _log.warning("%s: a replacement is cancelled: commits came after it was prepared", directory.name)
            cancel_replacement(disk, directory)
            return
    finish(disk, directory)


def plan_in_place(database: Database, page_size: int, page_n: int, sums: "array[int]") -> Steps[PlannedState]:
    """Prepares the synced incoming file as the next transaction of a database that stays open.

    Args:
        page_size: bytes; page_n, sums: pages of the new state and their checksums.

    Raises:
        CommitRefusedError: this node may not commit, or a commit came in between. The old state stands.
        OSError: the old state stands.
        DiskLostError: the process must stop.
    """
    state = DatabaseState(
        base_txid=database.txid + 1,
        checksum=database_checksum(sums) | CHECKSUM_FLAG,
        page_size=page_size,
        page_n=page_n,
        timestamp_ms=database.now_ms(),
        after_txid=database.txid,
    )
    yield partial(prepare_replacement, database.disk, database.directory, state)
    planned = PlannedState(state=state, sums=sums)
    try:
        check_may_flip(database, planned)
    except CommitRefusedError:
        cancel_replacement(database.disk, database.directory)
        raise
    return planned


def plan_from(database: Database, page_size: int, size: int, read: ReadAt) -> Steps[PlannedState]:
    """The same for a state that is not in the incoming file yet.

    Args:
        page_size: bytes; size: of the state in bytes, whole pages.
        read: (offset, size) → bytes of the state.

    Raises:
        As `plan_in_place`.
    """
    disk, directory, page_n = database.disk, database.directory, size // page_size
    incoming = IncomingDatabase(directory, page_size, page_n, disk)
    try:
        for offset in range(0, size, COPY_BYTES):
            incoming.write_pages(offset // page_size + 1, read(offset, min(COPY_BYTES, size - offset)))
            yield None
        yield incoming.finish
    except BaseException:
        incoming.abort()
        raise
    return (yield from plan_in_place(database, page_size, page_n, take_sums(disk, directory, page_n)))


def check_may_flip(database: Database, planned: PlannedState) -> None:
    """Raises CommitRefusedError where a planned state may not become the database's next any more."""
    if not database.gate.is_open:
        raise NotPrimaryError(f"{database.name}: this node is not the primary")
    if database.txid + 1 != planned.state.base_txid:
        raise CommitRefusedError(f"{database.name}: committed to while it was to be replaced")


def flip_in_place(database: Database, planned: PlannedState) -> Steps[None]:
    """Makes a planned state that of the database.

    Raises:
        DiskLostError: the next start finishes it, so the process must stop.
    """
    while database.is_checkpointing:
        yield None
    try:
        finish(database.disk, database.directory)
        database.reopen(planned.state, planned.sums)
    except OSError as error:
        raise DiskLostError(f"{database.name}: replacing its state: {error}") from error


def take_sums(disk: Disk, directory: Path, page_n: int) -> "array[int]":
    """Returns the page checksums of the state that `finish` put in place, and removes their file.

    Raises:
        FormatError, OSError: they are not to be had; a full verification at the next start makes them anew.
    """
    sums = read_sums(directory, page_n)
    disk.unlink("replacement.sums", directory / SUMS_NAME)
    return sums


def discard_old_log(disk: Disk, directory: Path) -> Steps[None]:
    """Removes the log that a replacement left behind, off the loop.

    Under a name of its own, so that the next replacement does not meet a log that is half gone.

    Raises:
        OSError: it stays; try again later.
    """
    old_log = directory / OLD_LOG_NAME
    if old_log.exists():
        doomed = directory / f"{OLD_LOG_NAME}-{secrets.token_hex(8)}"
        disk.rename("replacement.discard", old_log, doomed)
        yield lambda: disk.remove_tree("replacement.discard_tree", doomed)


def clean_up(disk: Disk, directory: Path) -> None:
    """Removes what replacements and snapshots leave behind. At start."""
    for path in directory.iterdir():
        if path.name in (SUMS_NAME, INCOMING_NAME) or path.name.startswith("aside-") or path.name.endswith(".tmp"):
            disk.unlink("replacement.clean", path)
        elif path.name.startswith(OLD_LOG_NAME):
            disk.remove_tree("replacement.clean", path)
