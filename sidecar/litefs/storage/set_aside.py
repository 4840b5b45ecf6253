"""Moving a database out of the way of a replica, which gets it anew from the primary: damaged ones, and histories
that are not the primary's.

Nothing of it is deleted: it lies in `<data>/dbs-aside/<name>-<n>` for whoever wants to know what happened, or needs
what only this node had. Only the newest `SET_ASIDE_MAX` are kept, or a disk that keeps failing would fill itself; but
damaged ones, the first of each database, until the node has caught up with a primary (`must_follow`).
"""

import logging
from pathlib import Path

from litefs.storage.disk import Disk
from litefs.storage.must_follow import MustFollow

SET_ASIDE_MAX = 4
"""In all: a fifth on one volume tells nothing that four did not."""

SET_ASIDE_NAME = "dbs-aside"

_log = logging.getLogger("litefs.storage")


def set_aside(disk: Disk, data_dir: Path, directory: Path, reason: Exception) -> Path:
    """Moves a database's directory aside, durably.

    Args:
        directory: `<data>/dbs/<name>`; none of its files is used any more.
        reason: what was found, for the log.

    Returns:
        Where it is now.

    Crash: the move is one rename; until it is durable the damage is found again. The node must follow before that.

    Raises:
        OSError: it is where it was.
    """
    target = make_room(disk, data_dir, directory.name)
    MustFollow(disk, data_dir).add(target.name)
    disk.rename("set_aside.rename", directory, target)
    for path in (directory.parent, target.parent, data_dir):
        disk.sync_directory("set_aside.sync", path)
    _log.error("%s: damaged, set aside as %s: %s", directory.name, target, reason)
    return target


def make_room(disk: Disk, data_dir: Path, name: str) -> Path:
    """Returns a place for one more database, which is not there yet; the oldest that may go does if there are too many.

    Raises:
        OSError: no room could be made.
    """
    aside = data_dir / SET_ASIDE_NAME
    disk.make_directory("set_aside.make", aside)
    numbers = {path: _number(path) for path in aside.iterdir()}
    kept = MustFollow(disk, data_dir).kept
    removable = sorted((path for path in numbers if path.name not in kept), key=lambda path: numbers[path])
    for path in removable[: max(0, len(numbers) + 1 - SET_ASIDE_MAX)]:
        _log.warning("%s: removed: %d newer ones are kept", path, SET_ASIDE_MAX - 1)
        disk.remove_tree("set_aside.oldest", path)
    return aside / f"{name}-{max(numbers.values(), default=0) + 1}"


def _number(path: Path) -> int:
    """Returns the number behind the last hyphen: it counts up over all names, so it tells the age."""
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdecimal() else 0
