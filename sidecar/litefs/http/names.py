"""Names of databases as they arrive from the wire, and what may become of them.

A database's name is one directory entry in the mount and under the data directory. A name is checked
here before anything else sees it; no other module of this package turns wire text into a path.

Source: LiteFS 0.5 file naming (suffix rule, flat namespace), Linux NAME_MAX.
"""

import re

from litefs.http.errors import DatabaseNameError

NAME_BYTES_MAX = 247
"""NAME_MAX (255) less the longest suffix that is put behind a name, `-journal`."""

SIDE_FILE_SUFFIXES = ("-journal", "-wal", "-shm", "-pos", "-lock")
"""A name that ends so means a file of another database."""

SUPER_JOURNAL = re.compile(r"-mj[0-9A-Fa-f]{9}\Z")
"""How SQLite ends the name of a super-journal."""

RESERVED_NAMES = frozenset({".", "..", ".primary", ".lag"})
"""Entries of every directory, and the special files of the mount's root."""


def check_database_name(name: str) -> str:
    """Returns `name` if it can be a database's name in the mount.

    Raises:
        DatabaseNameError: empty, too long, not UTF-8, a path, reserved, or the name of a side file.
    """
    if not name:
        raise DatabaseNameError("name required")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise DatabaseNameError(f"invalid database name {name!r}: not UTF-8") from error
    if size_bytes > NAME_BYTES_MAX:
        raise DatabaseNameError(f"invalid database name of {size_bytes} bytes: at most {NAME_BYTES_MAX} are allowed")
    if "/" in name or "\0" in name or name in RESERVED_NAMES:
        raise DatabaseNameError(f"invalid database name {name!r}: not one file of the mount")
    if name.endswith(SIDE_FILE_SUFFIXES) or SUPER_JOURNAL.search(name):
        raise DatabaseNameError(f"invalid database name {name!r}: that of a side file")
    return name
