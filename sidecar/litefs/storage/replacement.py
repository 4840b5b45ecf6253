"""Putting a whole new state in the place of a database: snapshots from the primary, imports, restores.

Strategy: the state lies complete and synced in the incoming files (`incoming`). *Prepare* writes the
state file of the future beside the present one; from then on recovery finishes the replacement. *Flip*
only renames. The new state starts with an empty log: S is its position.

Crash, by step of `finish`, which recovery calls as well:
    before `state.next` is durable      the old state stands; the incoming files are left-overs
    after it, whatever was renamed      recovery goes forward: what is called log is of the old state, for no commit
                                        of the new one is durable before all renames are; incoming, if it is
                                        there, becomes the base; `state.next` → `state` is durable last
An old state that is to be kept (`state.next` names the place) is moved there first.
"""

import errno
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
from litefs.storage.incoming import (
    INCOMING_PREFIX,
    SUMS_SUFFIX,
    IncomingDatabase,
    discard_incoming,
    read_sums,
)
from litefs.storage.recovery import scan_log
from litefs.storage.set_aside import SET_ASIDE_NAME
from litefs.storage.state import NEXT_STATE_NAME, STATE_NAME, DatabaseState, PlannedState, read_state, write_state
from litefs.storage.steps import Steps, pause

OLD_LOG_PREFIX = "log.replaced-"

COPY_BYTES = 256 << 10
"""Between two chances for others: whole pages of every size, below a millisecond of work."""

ReadAt = Callable[[int, int], bytes]

_log = logging.getLogger("litefs.storage")


def prepare_replacement(disk: Disk, directory: Path, state: DatabaseState) -> None:
    """Makes the replacement by `state.incoming` certain to happen: now by a flip, or at the next start.

    Raises:
        OSError: the old state stands.
        DiskLostError: either state may be found after a restart, so the process must not go on.
    """
    superseded = read_state(directory, NEXT_STATE_NAME)
    incoming = directory / state.incoming
    # Crash: `state.next` without the incoming file reads as a replacement that was carried out, and in a
    # directory without a durable name both are lost with it.
    if incoming.parent != directory or not state.incoming.startswith(INCOMING_PREFIX) or not incoming.exists():
        raise OSError(errno.ENOENT, f"{incoming}: there is no such new state")
    try:
        if (directory / BASE_NAME).exists():
            disk.copy_attributes("replacement.attributes", directory / BASE_NAME, incoming)
        for path in (directory, directory.parent):
            disk.sync_directory("replacement.parents", path)
        write_state(disk, directory, state, NEXT_STATE_NAME)
    except OSError:
        cancel_replacement(disk, directory, state.incoming)
        raise
    if superseded is not None and superseded.incoming not in ("", state.incoming):
        discard_incoming(disk, directory, superseded.incoming)


def cancel_replacement(disk: Disk, directory: Path, incoming: str) -> None:
    """Takes the replacement by `incoming` back, durably. Another that was prepared since stays.

    Raises:
        CorruptStateError: `state.next` cannot be believed.
        DiskLostError: it may happen at the next start, so the process must not go on.
    """
    path = directory / NEXT_STATE_NAME
    try:
        planned = read_state(directory, NEXT_STATE_NAME)
        if planned is not None and planned.incoming == incoming:
            disk.unlink("replacement.cancel", path)
            disk.sync_directory("replacement.cancel_directory", directory)
    except OSError as error:
        raise DiskLostError(f"cannot cancel {path}: {error}") from error


def finish(disk: Disk, directory: Path, incoming_name: str) -> bool:
    """Carries out the replacement by `incoming_name`, by renames only. Runs off the loop.

    Returns:
        False, with nothing done, if it is not prepared any more.

    Raises:
        CorruptStateError: `state.next` cannot be believed.
        OSError: a start will finish it.
    """
    planned = read_state(directory, NEXT_STATE_NAME)
    if planned is None or planned.incoming != incoming_name:
        return False
    incoming, log_dir = directory / planned.incoming, directory / LOG_NAME
    if planned.aside:
        _keep_old_state(disk, directory, directory.parent.parent / SET_ASIDE_NAME / planned.aside, incoming)
    if log_dir.exists():
        disk.rename("replacement.log", log_dir, directory / f"{OLD_LOG_PREFIX}{secrets.token_hex(8)}")
    if planned.incoming and incoming.exists():
        disk.rename("replacement.base", incoming, directory / BASE_NAME)
    disk.make_directory("replacement.new_log", log_dir)
    # Crash: the new state file beside the old base would be damage, so the base must be there first.
    disk.sync_directory("replacement.directory", directory)
    disk.rename("replacement.state", directory / NEXT_STATE_NAME, directory / STATE_NAME)
    return True


def _keep_old_state(disk: Disk, directory: Path, place: Path, incoming: Path) -> None:
    """Moves the old state to a place of its own: log, state file and base, as a database's directory has them.

    Crash: `finish` goes on. What is there already is not moved again, and the base is missing only while `incoming`,
    which is about to become it, is there.
    """
    disk.make_directory("replacement.aside", place)
    if (directory / LOG_NAME).exists() and not (place / LOG_NAME).exists():
        disk.rename("replacement.aside_log", directory / LOG_NAME, place / LOG_NAME)
    if (directory / STATE_NAME).exists() and not (place / STATE_NAME).exists():
        disk.replace_file("replacement.aside_state", place / STATE_NAME, (directory / STATE_NAME).read_bytes())
    if incoming.is_file() and (directory / BASE_NAME).exists() and not (place / BASE_NAME).exists():
        disk.rename("replacement.aside_base", directory / BASE_NAME, place / BASE_NAME)
    for path in (place, place.parent, place.parent.parent):
        disk.sync_directory("replacement.aside_directory", path)


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
    if planned.incoming and (directory / planned.incoming).exists() and log_dir.exists():
        found = scan_log(disk, log_dir)
        found.close(disk)
        present = read_state(directory) or DatabaseState()
        # Another replacement leaves no image: only the state file tells that it came in between.
        if max(found.last_txid(), present.base_txid) > planned.after_txid:
            _log.warning("%s: a replacement is cancelled: commits came after it was prepared", directory.name)
            cancel_replacement(disk, directory, planned.incoming)
            return
    finish(disk, directory, planned.incoming)


def plan_in_place(
    database: Database, incoming: str, page_size: int, page_n: int, sums: "array[int]"
) -> Steps[PlannedState]:
    """Prepares a synced incoming file as the next transaction of a database that stays open.

    Args:
        incoming: its name. It stays the caller's if this fails.
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
        group=database.group,
        after_txid=database.txid,
        incoming=incoming,
    )
    yield from database.alone(partial(prepare_replacement, database.disk, database.directory, state))
    try:
        check_may_flip(database, state)
    except CommitRefusedError:
        yield from cancel(database, state)
        raise
    return PlannedState(state=state, sums=sums)


def plan_from(database: Database, page_size: int, size: int, read: ReadAt) -> Steps[PlannedState]:
    """The same for a state that is not in an incoming file yet.

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
        sums = yield partial(take_sums, disk, directory, incoming.name, page_n)
        return (yield from plan_in_place(database, incoming.name, page_size, page_n, sums))
    except DiskLostError:
        raise
    except BaseException:
        incoming.abort()
        raise


def give_up_plan(database: Database, planned: PlannedState) -> Steps[None]:
    """Takes back what `plan_from` prepared, durably.

    Raises:
        DiskLostError: the process must stop.
    """
    yield from cancel(database, planned.state)
    discard_incoming(database.disk, database.directory, planned.state.incoming)


def cancel(database: Database, state: DatabaseState) -> Steps[None]:
    """`cancel_replacement`, off the loop."""
    yield from database.alone(partial(cancel_replacement, database.disk, database.directory, state.incoming))


def check_may_flip(database: Database, state: DatabaseState) -> None:
    """Raises CommitRefusedError where a planned state may not become the database's next any more."""
    if not database.gate.is_open:
        raise NotPrimaryError(f"{database.name}: this node is not the primary")
    if database.txid + 1 != state.base_txid:
        raise CommitRefusedError(f"{database.name}: committed to while it was to be replaced")


def carry_out(database: Database, state: DatabaseState) -> Steps[None]:
    """Puts a prepared state in the place of a database's files; `database` still goes by the old ones.

    From here on its log takes nothing any more.

    Raises:
        CommitRefusedError: a transaction is being put into the log, or another state was prepared; nothing was done.
        DiskLostError: the next start finishes it, so the process must stop.
    """
    log = database.log
    if log.is_held or log.last_txid != database.logged_txid:
        raise CommitRefusedError(f"{database.name}: a transaction is under way")
    log.is_held = True
    is_done = False
    try:
        # What is under way in threads knows files by their names, which are about to bear other ones.
        yield from database.sync_log()
        while log.is_used:
            yield pause
        is_done = yield from database.alone(partial(finish, database.disk, database.directory, state.incoming))
    except OSError as error:
        raise DiskLostError(f"{database.name}: replacing its state: {error}") from error
    finally:
        log.is_held = is_done
    if not is_done:
        raise CommitRefusedError(f"{database.name}: this replacement is not prepared any more")


def flip_in_place(database: Database, planned: PlannedState) -> Steps[None]:
    """Makes a planned state that of the database.

    Raises:
        CommitRefusedError: it may not be any more; the old state stands and the replacement is cancelled.
        DiskLostError: the next start finishes it, so the process must stop.
    """
    try:
        check_may_flip(database, planned.state)
        yield from carry_out(database, planned.state)
    except CommitRefusedError:
        yield from cancel(database, planned.state)
        raise
    try:
        database.reopen(planned.state, planned.sums)
    except OSError as error:
        raise DiskLostError(f"{database.name}: replacing its state: {error}") from error


def take_sums(disk: Disk, directory: Path, incoming: str, page_n: int) -> "array[int]":
    """Returns the page checksums of a new state, and removes their file. Runs off the loop.

    Raises:
        FormatError, OSError: they are not to be had; a full verification at the next start makes them anew.
    """
    sums = read_sums(directory, incoming, page_n)
    disk.unlink("replacement.sums", directory / (incoming + SUMS_SUFFIX))
    return sums


def discard_old_logs(disk: Disk, directory: Path) -> Steps[None]:
    """Removes the logs that replacements left behind, off the loop.

    Raises:
        OSError: some stay; try again later.
    """
    for path in directory.glob(OLD_LOG_PREFIX + "*"):
        yield partial(disk.remove_tree, "replacement.discard_tree", path)


def discard_unfinished(disk: Disk, path: Path) -> None:
    """Removes a file of a new state whose maker is dead, unless it is prepared: then a start or a flip finishes it.

    Raises:
        CorruptStateError: `state.next` cannot be believed; the file stays.
        OSError: it stays.
    """
    planned = read_state(path.parent, NEXT_STATE_NAME)
    if planned is None or path.name not in (planned.incoming, planned.incoming + SUMS_SUFFIX):
        disk.unlink("replacement.unfinished", path)


def clean_up(disk: Disk, directory: Path) -> None:
    """Removes what replacements and snapshots leave behind. At start."""
    for path in directory.iterdir():
        if path.name.startswith((INCOMING_PREFIX, "aside-")) or path.name.endswith(".tmp"):
            disk.unlink("replacement.clean", path)
        elif path.name.startswith(OLD_LOG_PREFIX):
            disk.remove_tree("replacement.clean", path)
