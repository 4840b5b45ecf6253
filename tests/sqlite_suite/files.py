"""Which files of SQLite's suite are run.

Here: names. Not here: how they are run (`suite.py`).
"""

ALL_FILES = (
    *("wal", "wal2", "wal3", "wal4", "wal6", "wal8", "walbak", "walbig", "walcksum", "walcrash", "walmode"),
    *("waloverwrite", "walpersist", "walro2", "walvfs"),
    *("journal2", "jrnlmode", "jrnlmode2", "mjournal", "pager1", "pager4", "rollback", "savepoint", "trans3"),
    *("vacuum", "vacuum-into", "crash", "crash2", "crash4", "crash8", "exclusive", "lock", "lock2", "lock4"),
    *("mmap1", "autovacuum", "backup", "shmlock", "unixexcl", "cachespill"),
)
"""Files that exercise the file system and pass on ext4 and on a plain pass-through mount."""

QUICK_FILES = (
    *("wal", "wal2", "wal4", "walmode", "waloverwrite", "walpersist", "walcksum", "walro2"),
    *("journal2", "jrnlmode", "jrnlmode2", "mjournal", "pager4", "rollback", "savepoint", "trans3"),
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
