"""Tells whether a state that is about to be replaced by the primary's may hold what only this node has.

Strategy: a replica that was away for too long is replaced, too, and has nothing of its own. A node with as many
transactions as the primary, or one whose newest image it made itself while it was primary, may have some that were
never sent. Its old state is kept in `dbs-aside` for whoever needs it; it may turn out that all of it was sent.
"""

import logging
from pathlib import Path

from litefs.errors import StorageError
from litefs.formats.ltx import HEADER_SIZE, LtxHeader
from litefs.storage.database import LOG_NAME
from litefs.storage.disk import Disk
from litefs.storage.log_reader import LogReader
from litefs.storage.set_aside import make_room

_log = logging.getLogger("litefs.storage")


def place_for_old_state(
    disk: Disk, data_dir: Path, directory: Path, *, new_txid: int, last_txid: int, node_id: int
) -> str:
    """Returns where in `dbs-aside` the old state of a database is to go; "" if the primary has all of it.

    Args:
        directory: of the database.
        new_txid: transaction of the state that the primary sent.
        last_txid: newest image in the log of the old one; 0: there is none.
        node_id: of this node.

    Raises:
        OSError: no room could be made.
    """
    if not last_txid or (new_txid > last_txid and _made_by(directory, last_txid) != node_id):
        return ""
    place = make_room(disk, data_dir, directory.name)
    _log.warning(
        "%s: this node may have transactions up to %016x that the primary, at %016x, does not: kept in %s",
        directory.name,
        last_txid,
        new_txid,
        place,
    )
    return place.name


def _made_by(directory: Path, txid: int) -> int | None:
    """Returns the id of the node that made an image; None if the log does not hold it."""
    reader = LogReader(directory / LOG_NAME)
    try:
        ref = next(reader.images(txid, txid))
        return int(LtxHeader.decode(reader.read(ref, 0, HEADER_SIZE)).node_id)
    except StorageError:
        return None
    finally:
        reader.close()
