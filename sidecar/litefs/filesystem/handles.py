"""What is remembered from the opening of a file to its closing."""

import os

from litefs.filesystem.inodes import Inode


class Handle:
    """An open file."""

    __slots__ = ("by_sqlite", "content", "inode", "wrote")

    def __init__(self, inode: Inode, flags: int) -> None:
        """Args: flags: of open(2). SQLite opens databases with O_NOFOLLOW, never for writing only, nor with O_EXCL.

        rsync does the latter with its temporary files.
        """
        self.inode = inode
        self.by_sqlite = flags & (os.O_NOFOLLOW | os.O_EXCL) == os.O_NOFOLLOW and flags & os.O_ACCMODE != os.O_WRONLY
        self.content: bytes | None = None
        self.wrote = False
