"""How many files a process of ours may have open: as many as the machine allows.

The usual limit of 1,024 is for programs that use `select`. The filesystem process holds two or three descriptors per
database: some 400 of them would use it up, and then no new one commits. A replica's node process has files open, too.
"""

import resource


def allow_many_descriptors() -> None:
    """Raises this process's limit to what it may raise it to by itself. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
