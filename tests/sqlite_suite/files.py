"""Which files of SQLite's suite are run, and what the mount is meant to do otherwise than ext4.

Here: names and reasons. Not here: how files are run (`suite.py`). For readers there is `docs/sqlite-suite.md`.
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
    *("wal", "wal2", "wal4", "wal5", "walcksum", "walmode", "walnoshm", "waloverwrite", "walpersist"),
    *("walro2", "walrofault", "e_wal", "e_walckpt", "snapshot", "snapshot2"),
    *("journal2", "journal3", "jrnlmode", "jrnlmode2", "mjournal", "rollback", "savepoint", "trans3", "crash8"),
    *("autovacuum", "autovacuum_ioerr2", "e_vacuum", "incrvacuum", "vacuum", "vacuum-into", "pager3"),
    *("exclusive", "exclusive2", "lock2", "lock3", "lock4", "nolock", "shared", "superlock", "unixexcl"),
    *("attach", "cacheflush", "cachespill", "conflict", "corrupt2", "corrupt6", "corrupt9", "delete_db", "diskfull"),
    *("filefmt", "io", "mmap1", "rdonly", "sync2", "temptable", "uri"),
)
"""The subset of `make test`: every subject, the files that find most in a second."""

SUITE_SETTINGS: dict[str, object] = {"default_permissions": True}
"""Some tests take a permission away and expect the kernel to refuse."""

DIFFERENCES: dict[str, str] = {
    "journal_mode=MEMORY and OFF are refused": (
        "jrnlmode-3.2 jrnlmode-4.[34] jrnlmode-6.7 jrnlmode-[78].* jrnlmode3-[12].* jrnlmode3-3.*.[346] memjournal*-* "
        "changes-1.* pager1-4.4.?.m1.* pager1-5.[235].* pager1-14.1.* pager2-2.2 savepoint-13.* "
        "wal-25.OFF wal-25.MEMORY wal6-1.?.off wal6-1.?.memory walmode-6.[12]"
    ),
    "the mount has no directories": (
        "backup2-10 delete_db-3.0 misc1-14.* oserror-1.2.* oserror-2.1.* quota-5.4.1 multiplex-5.4.1 lock5-dotfile.* "
        "vtabH-3.[035678] zipfile2-2.0"
    ),
    "the mount has no links": "symlink-*",
    "a journal is not renamed": "pager1-33.*",
    "a journal is empty between transactions": "jrnlmode-5.1[3579] journal2-2.3 exclusive-3.[25] pager1-10.*.1",
    "positions are files": "vtabH-3.2",
    "no other program than SQLite cuts a database": "incrcorrupt-2.*",
    "a database ends with its last page: SQLITE_FCNTL_CHUNK_SIZE allocates nothing ahead": (
        "chunksize-1.2 fallocate-1.[1-578] fallocate-2.1 pager1-32.1 syscall-8.[24].*"
    ),
    "one database in several files (multiplex) is several databases": (
        "multiplex-2.[56].* multiplex-6.* multiplex4-1.* delete_db-1.[34].0"
    ),
    "a transaction that makes page 1 unreadable is refused": "resetdb-20[01]",
}
"""Why the mount is meant to fail tests, and which: patterns of their names."""

EXCLUDED_FILES: dict[str, str] = {
    "multiplex2": "keeps a database in several files",
    "pager4": "renames the database under an open connection and goes on with journal_mode=OFF",
    "quota2": "lies in directories",
    "walro": "lies in a directory",
    "zipfile": "unpacks into directories",
}
"""Files that end at their first difference, so that nothing can be said about the rest of them."""

NO_TESTS = (
    *("all", "async", "extraquick", "full", "fts3", "mallocAll", "memleak", "permutations", "quick", "rbu", "rtree"),
    *("session", "soak", "veryquick", "speed1", "speed1p", "speed2", "speed3", "speed4", "speed4p"),
)
"""Files that only run others, or measure."""
