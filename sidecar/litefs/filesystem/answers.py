"""How requests are answered: errors by table, and the requests whose answer is the same for every file.

Strategy: `Operations` adds what depends on a file. Here is what a request can rely on: whatever it raises
becomes an errno, and nothing that the kernel asks in vain is asked twice.
"""

import errno
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pyfuse3

from litefs.errors import DiskLostError
from litefs.filesystem.errno_table import REASONS, errno_of, reason_of

T = TypeVar("T")
_log = logging.getLogger("litefs.filesystem")

_STATFS_FIELDS = (
    "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax",
)  # fmt: skip


def guarded(method: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    """Turns every exception of an operation into an errno; pyfuse3 would end the server otherwise."""

    @functools.wraps(method)
    async def wrapper(self: "Answers", *args: Any) -> T:
        try:
            return await method(self, *args)
        except Exception as error:
            raise self.answer_to(error, method.__name__) from error

    return wrapper


class Answers(pyfuse3.Operations):
    """Answers that no file has a part in."""

    def __init__(self, data_path: Path) -> None:
        """Args: data_path: its space is the mount's."""
        super().__init__()
        self._data_path = data_path
        self.refused_n = Counter(dict.fromkeys(REASONS, 0))
        """Requests that were refused, by reason. All are there from the start, for Prometheus to see them rise."""
        self.lists_without_opendir = True
        self.stop_at_once: Callable[[Exception], None] = lambda error: None

    def answer_to(self, error: Exception, operation: str) -> pyfuse3.FUSEError:
        """Returns the errno that answers an exception; where durability is lost, ends the process."""
        if isinstance(error, pyfuse3.FUSEError):
            return error
        if isinstance(error, DiskLostError):
            self.stop_at_once(error)
        number = errno_of(error)
        if reason := reason_of(error):
            self.refused_n[reason] += 1
        if number is None:
            _log.error("%s failed", operation, exc_info=error)
        else:
            _log.info("%s: %s", operation, error)
        return pyfuse3.FUSEError(number or errno.EIO)

    @guarded
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Refused: the mount holds databases. SQLite's dot-file locking makes directories."""
        _log.warning(
            "%s: no directories in the mount; if this is dot-file locking (unix-dotfile): it cannot be replicated", name
        )
        raise pyfuse3.FUSEError(errno.EPERM)

    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Refused: the mount holds databases. EPERM is what programs know of file systems without links."""
        raise pyfuse3.FUSEError(errno.EPERM)

    async def link(
        self, number: int, new_parent: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Refused, as a symbolic link."""
        raise pyfuse3.FUSEError(errno.EPERM)

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Refused: pipes, sockets and devices are no databases, and regular files come by `create`."""
        raise pyfuse3.FUSEError(errno.EPERM)

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The data directory's space is the mount's."""
        source = os.statvfs(self._data_path)
        result = pyfuse3.StatvfsData()
        for field in _STATFS_FIELDS:
            setattr(result, field, getattr(source, field))
        return result

    async def flush(self, fh: int) -> None:
        """Never wanted again: an upcall less for each close, and none at all in a dying process."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def opendir(self, number: int, ctx: pyfuse3.RequestContext) -> int:
        """Never wanted again, nor its end: SQLite opens the directory of a journal that it deletes, to sync it.

        The kernel keeps what a listing said from now on, until the directory's modification time is another.
        """
        if self.lists_without_opendir:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return pyfuse3.FileHandleT(0)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Never wanted again: names are durable with the log."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def access(self, number: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """Never wanted again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def getxattr(self, number: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Never wanted again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)
