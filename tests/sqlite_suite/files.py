"""Which files of SQLite's suite are run, and which are known not to apply.

Here: names and reasons. Not here: how they are run (`suite.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteFile:
    """One file of the suite.

    Attributes:
        name: of the file without `.test`.
        seconds: what it takes on ext4 (2 cores, 2.4 GHz), for choosing the quick subset.
    """

    name: str
    seconds: float


ALL_FILES: tuple[str, ...] = tuple(
    """
    wal wal2 wal3 wal4 wal6 wal8 walbak walbig walcksum walcrash walmode waloverwrite walpersist walro2 walvfs
    journal2 jrnlmode jrnlmode2 mjournal pager1 pager4 rollback savepoint trans3 vacuum vacuum-into crash crash2
    crash4 crash8 exclusive lock lock2 lock4 mmap1 autovacuum backup shmlock unixexcl cachespill
    """.split()
)
"""Every file that exercises the file system and passes on ext4 and on a correct pass-through mount."""
