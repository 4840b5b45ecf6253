"""Which files of SQLite's suite are run.

Here: names. Not here: how they are run (`suite.py`).
"""

ALL_FILES = (
    *("wal", "wal2", "wal3", "wal4", "wal6", "wal8", "walbak", "walbig", "walcksum", "walcrash", "walmode"),
    *("waloverwrite", "walpersist", "walro2", "walvfs"),
    *("journal2", "jrnlmode", "jrnlmode2", "mjournal", "pager1", "rollback", "savepoint", "trans3"),
    *("vacuum", "vacuum-into", "crash", "crash2", "crash4", "crash8", "exclusive", "lock", "lock2", "lock4"),
    *("mmap1", "autovacuum", "backup", "shmlock", "unixexcl", "cachespill"),
)
"""Files that exercise the file system and pass on ext4 and on a plain pass-through mount."""

QUICK_FILES = (
    *("wal", "wal2", "wal4", "walmode", "waloverwrite", "walpersist", "walcksum", "walro2"),
    *("journal2", "jrnlmode", "jrnlmode2", "mjournal", "rollback", "savepoint", "trans3"),
    *(
        "vacuum",
        "vacuum-into",
        "crash8",
        "exclusive",
        "lock2",
        "lock4",
        "mmap1",
        "autovacuum",
        "unixexcl",
        "cachespill",
    ),
)
"""The subset of `make test`: every subject, nothing that takes more than a second on ext4."""

SUITE_SETTINGS: dict[str, object] = {"default_permissions": True}
"""Some tests take a permission away and expect the kernel to refuse."""

DIFFERENCES: dict[str, str] = {
    "jrnlmode-3.2": "journal_mode=OFF",
    "jrnlmode-4.[34]": "journal_mode=OFF",
    "jrnlmode-6.7": "journal_mode=MEMORY",
    "jrnlmode-7.*": "journal_mode=MEMORY",
    "jrnlmode-8.*": "journal_mode=MEMORY, left from jrnlmode-7",
    "pager1-4.4.?.m1.*": "journal_mode=MEMORY",
    "pager1-5.[235].*": "journal_mode=MEMORY and OFF",
    "pager1-14.1.*": "journal_mode=OFF",
    "savepoint-13.*": "journal_mode=OFF",
    "wal-25.OFF": "journal_mode=OFF",
    "wal-25.MEMORY": "journal_mode=MEMORY",
    "wal6-1.?.off": "journal_mode=OFF",
    "wal6-1.?.memory": "journal_mode=MEMORY",
    "walmode-6.[12]": "journal_mode=OFF",
    "pager1.4.6.9": "lists the directory, where the mount shows the positions too",
    "pager1-32.1": "SQLITE_FCNTL_CHUNK_SIZE: the file of a database ends with its last page",
    "pager1-33.*": "renames a journal",
}
"""Tests that the mount is meant to fail, by pattern, and why. `journal_mode=MEMORY` and `OFF` cannot be replicated."""

EXCLUDED_FILES: dict[str, str] = {
    "pager4": "renames the database under an open connection and goes on with journal_mode=OFF",
}
"""Files that end at their first difference, so that nothing can be said about the rest of them."""

LOCK_BYTE = "0x40000000"
LOCK_BYTES = {"backup": "0x0010000"}
"""Where a file wants SQLite's lock bytes: backup fills databases up to them, which at 1 GiB takes for ever."""
