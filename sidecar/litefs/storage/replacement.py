"""Putting a whole new state in the place of a database: snapshots from the primary, imports, restores.

Strategy: the state lies complete and synced in the incoming files (`incoming`). *Prepare* writes the
state file of the future beside the present one; from then on recovery finishes the replacement. *Flip*
only renames. The new state starts with an empty log: S is its position.

Crash, by step of `finish`, which recovery calls as well:
    before `state.next` is durable      the old state stands; the incoming files are left-overs
    after it, whatever was renamed      recovery goes forward: incoming there → log aside, incoming → base;
                                        incoming gone → only `state.next` → `state` is left to do
"""

from array import array
from pathlib import Path

from litefs.storage.database import BASE_NAME, LOG_NAME
from litefs.storage.disk import Disk
from litefs.storage.incoming import INCOMING_NAME, SUMS_NAME, read_sums
from litefs.storage.state import NEXT_STATE_NAME, STATE_NAME, DatabaseState, read_state, write_state

OLD_LOG_NAME = "log.replaced"


def prepare_replacement(disk: Disk, directory: Path, state: DatabaseState) -> None:
    """Makes the replacement certain to happen: now by `finish`, or at the next start.

    Raises:
        OSError: the old state stands.
    """
    write_state(disk, directory, state, NEXT_STATE_NAME)


def cancel_replacement(disk: Disk, directory: Path) -> None:
    """Takes a prepared replacement back, durably."""
    if (directory / NEXT_STATE_NAME).exists():
        disk.unlink("replacement.cancel", directory / NEXT_STATE_NAME)
        disk.sync_directory("replacement.cancel_directory", directory)


def finish(disk: Disk, directory: Path) -> bool:
    """Carries out a prepared replacement by renames only. Returns False if none is prepared.

    Raises:
        CorruptStateError: `state.next` cannot be believed.
    """
    if read_state(directory, NEXT_STATE_NAME) is None:
        return False
    incoming = directory / INCOMING_NAME
    if incoming.exists():
        log_dir, old_log = directory / LOG_NAME, directory / OLD_LOG_NAME
        if log_dir.exists():
            if old_log.exists():
                disk.remove_tree("replacement.old_log", old_log)
            disk.rename("replacement.log", log_dir, old_log)
        disk.rename("replacement.base", incoming, directory / BASE_NAME)
    disk.make_directory("replacement.new_log", directory / LOG_NAME)
    disk.rename("replacement.state", directory / NEXT_STATE_NAME, directory / STATE_NAME)
    return True


def take_sums(disk: Disk, directory: Path, page_n: int) -> "array[int]":
    """Returns the page checksums of the state that `finish` put in place, and removes their file.

    Raises:
        FormatError, OSError: they are not to be had; a full verification at the next start makes them anew.
    """
    sums = read_sums(directory, page_n)
    disk.unlink("replacement.sums", directory / SUMS_NAME)
    return sums


def clean_up(disk: Disk, directory: Path) -> None:
    """Removes what replacements and snapshots leave behind. At start, and after a flip."""
    for path in directory.iterdir():
        if path.name in (SUMS_NAME, INCOMING_NAME) or path.name.startswith("aside-") or path.name.endswith(".tmp"):
            disk.unlink("replacement.clean", path)
        elif path.name == OLD_LOG_NAME:
            disk.remove_tree("replacement.clean", path)
