"""The state file of a database: what the base file is complete up to. Small, checksummed, replaced atomically.

One JSON document and, on a second line, the CRC-64 of the first in hex.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path

import msgspec

from litefs.errors import CorruptStateError
from litefs.formats.checksum import EMPTY_DATABASE_CHECKSUM, crc64
from litefs.storage.disk import Disk

STATE_NAME = "state"
NEXT_STATE_NAME = "state.next"


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the base file.

    Attributes:
        base_txid: S: every page of transactions up to here is in the base file; 0: never written.
        checksum: of the whole database at `base_txid`.
        page_size: bytes; 0 while unknown.
        page_n: pages at `base_txid`; 0 for a dropped or never written database.
        timestamp_ms: of the image `base_txid`.
        group: mark of the last multi-database image at or before `base_txid` (see `log_format`); 0: none. A new state
            takes it over from the one before: the log that says what it decided goes.
        after_txid: in `state.next` only: images after this one make the replacement void.
        incoming: in `state.next` only: the file that becomes the base; see `incoming`.
        aside: in `state.next` only: the directory in `dbs-aside` that takes the old state; "": it goes.
    """

    base_txid: int = 0
    checksum: int = EMPTY_DATABASE_CHECKSUM
    page_size: int = 0
    page_n: int = 0
    timestamp_ms: int = 0
    group: int = 0
    after_txid: int = (1 << 63) - 1
    incoming: str = ""
    aside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedState:
    """A whole new state that lies prepared beside the present one, and the checksums of its pages."""

    state: DatabaseState
    sums: "array[int]"


def write_state(disk: Disk, directory: Path, state: DatabaseState, name: str = STATE_NAME) -> None:
    """Replaces the state file durably.

    Raises:
        OSError: the old state stands, or (if only the last directory sync failed) either one.
    """
    body = msgspec.json.encode(state)
    disk.replace_file("state", directory / name, body + b"\n%016x\n" % crc64(body))


def read_state(directory: Path, name: str = STATE_NAME) -> DatabaseState | None:
    """Returns the state, or None if there is no such file.

    Raises:
        CorruptStateError: the file is there and cannot be believed.
    """
    path = directory / name
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    try:
        if len(lines) != 3 or int(lines[1], 16) != crc64(lines[0]):
            raise CorruptStateError(f"{path}: wrong checksum")
        return msgspec.json.decode(lines[0], type=DatabaseState)
    except (ValueError, msgspec.MsgspecError) as error:
        raise CorruptStateError(f"{path}: {error}") from error
