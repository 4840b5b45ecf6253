"""Which text may be the name of a database: what a file name must be, and what is not the name of another file.

    NAME-journal  NAME-wal  NAME-shm   files that SQLite keeps beside a database
    NAME-mjXXXXXXXXX                   a super-journal
    NAME-pos  NAME-lock                what LiteFS says of a database
    .primary  .lag                     what it says of the node
    .litefs-replacement-NAME           a new state that is to take the place of a database

A suffix with nothing before it makes no side file. What peers send becomes the name of a directory, so that nothing
passes here which leads out of its own.

Source: LiteFS 0.5 (suffix rule, flat namespace); Linux NAME_MAX.
"""

import re

from litefs.errors import FormatError

NAME_BYTES_MAX = 247
"""As in LiteFS 0.5, where name and `-journal` have to fit into the 255 bytes of a directory entry."""

REPLACEMENT_PREFIX = ".litefs-replacement-"
"""A new state waits under this name for the rename that puts it in the place of a database."""

_FIXED = frozenset({".", "..", ".primary", ".lag"})
_SIDE_FILE = re.compile(r".(-journal|-wal|-shm|-pos|-lock|-mj[0-9A-F]{9})\Z", re.DOTALL)


def check_database_name(name: str) -> None:
    """Checks that a name can be a database's.

    Raises:
        FormatError: empty, too long, no UTF-8, a path, or the name of a file that is no database.
    """
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise FormatError(f"not the name of a database: {name!r} is not UTF-8") from None
    if size_bytes > NAME_BYTES_MAX:
        raise FormatError(f"a name of {size_bytes} bytes, {NAME_BYTES_MAX} are allowed")
    if not name or "/" in name or "\0" in name or name in _FIXED:
        raise FormatError(f"not the name of a database: {name!r}")
    if name.startswith(REPLACEMENT_PREFIX) or _SIDE_FILE.search(name):
        raise FormatError(f"not the name of a database: {name!r} is that of a side file")
