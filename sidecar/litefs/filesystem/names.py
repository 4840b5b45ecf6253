"""What a name in the mount stands for.

NAME-journal  NAME-wal  NAME-shm   the files that SQLite keeps beside a database
NAME-mjXXXXXXXXX                   a super-journal: a commit over several databases
NAME-pos  NAME-lock                the position of a database, and its halt lock
etilqs_…                           a file that SQLite sorts in, or spills to: it unlinks it as soon as it is open
.primary  .lag                     who the primary is, and how far behind this node is
anything else                      a database
"""

import re

from litefs.filesystem.inodes import Kind
from litefs.formats.database_name import REPLACEMENT_PREFIX

_SUPER_JOURNAL = re.compile(r"(.+)-mj[0-9A-F]{9}\Z", re.DOTALL)
_SUFFIXES = {
    "-journal": Kind.JOURNAL,
    "-wal": Kind.WAL,
    "-shm": Kind.SHM,
    "-pos": Kind.POS,
    "-lock": Kind.LOCK,
}
_TEMPORARY_PREFIX = "etilqs_"
_FIXED = {".primary": Kind.PRIMARY, ".lag": Kind.LAG}


def classify(name: str) -> tuple[Kind, str]:
    """Returns (kind, name of the database it belongs to; "" if to none)."""
    fixed = _FIXED.get(name)
    if fixed is not None:
        return fixed, ""
    head, dash, tail = name.rpartition("-")
    if dash and head:
        kind = _SUFFIXES.get(dash + tail)
        if kind is not None:
            return kind, head
        if tail.startswith("mj") and _SUPER_JOURNAL.match(name):
            return Kind.SUPER_JOURNAL, head
    if name.startswith(REPLACEMENT_PREFIX):
        return Kind.REPLACEMENT, name[len(REPLACEMENT_PREFIX) :]
    return (Kind.TEMPORARY, "") if name.startswith(_TEMPORARY_PREFIX) else (Kind.DATABASE, name)
