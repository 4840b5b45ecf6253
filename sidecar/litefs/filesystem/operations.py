"""The requests of the kernel, one method each: check them, hand them to storage. Those for names are in `directory`.

Strategy: a request is answered from memory where it can be. What may take long is a generator of steps, driven here
so that others are served meanwhile. Locks never come here: without FUSE_POSIX_LOCKS the kernel keeps them itself.

Rules:
    1. `flush`, `opendir`, `fsyncdir`, `access` and extended attributes answer ENOSYS once and are never sent again.
    2. Every operation is wrapped (`answers.guarded`): any exception becomes an errno, none ends the server.
    3. On a replica enforcement is at the creation of a journal, the opening of a WAL for writing, and the
       commit. Everything else is allowed, or a hot journal could not be rolled back.
"""

import errno
import logging
import os
import stat
import time

import pyfuse3

from litefs.filesystem.answers import guarded
from litefs.filesystem.directory import Directory
from litefs.filesystem.handles import Handle
from litefs.filesystem.inodes import SPECIAL_KINDS, TRANSACTION_KINDS, Inode, InodeTable, Kind
from litefs.filesystem.loads import let_load_commit
from litefs.filesystem.loop import Loop
from litefs.filesystem.special_files import ClusterView, special_content
from litefs.filesystem.wal_sync import WalSync
from litefs.storage.served import ServedDatabase
from litefs.storage.steps import Steps
from litefs.storage.store import Store

_log = logging.getLogger("litefs.filesystem")

_WRITING = os.O_WRONLY | os.O_RDWR


class Operations(Directory):
    """The requests for files, and the root directory."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, store: Store, inodes: InodeTable, loop: Loop, view: ClusterView) -> None:
        """Args: as `Directory`."""
        super().__init__(store, inodes, loop, view)
        self._wal_sync = WalSync(loop)

    # ---- open files ----

    @guarded
    async def open(self, number: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Opens a file; O_TRUNC comes in the flags, without a setattr after it."""
        self._check_may_open(ctx)
        inode = self._inode(number)
        served = inode.served
        if inode.is_dead or (inode.kind is Kind.SHM and inode.unlinked and served is not None and served.dead):
            raise pyfuse3.FUSEError(errno.ESTALE)
        writing = flags & os.O_ACCMODE & _WRITING
        if writing and inode.kind in SPECIAL_KINDS and inode.kind is not Kind.LOCK:
            raise pyfuse3.FUSEError(errno.EACCES)
        if writing and inode.kind is Kind.WAL and not self.store.gate.is_open and not self._is_node(ctx):
            raise pyfuse3.FUSEError(errno.EACCES)
        info = self._open_handle(inode, flags)
        if flags & os.O_TRUNC and writing:
            handle = self._handles[info.fh]
            handle.wrote = True
            try:
                await self._truncate(inode, 0, handle)
            except BaseException:
                self._handles.pop(info.fh)
                self.inodes.released(inode)
                raise
        return info

    @guarded
    async def release(self, fh: int) -> None:
        """The last descriptor of a handle is closed. A file filled by it becomes a database now."""
        handle = self._handles.pop(fh)
        inode = handle.inode
        self.inodes.released(inode)
        if not handle.wrote or inode.kind is not Kind.DATABASE or inode.served is None:
            return
        await let_load_commit(self.loop, inode.served)
        if inode.served.load is not None:
            await self._finish_load(inode, inode.served)
            if inode.served.load is not None:
                _log.warning("%s: closed without being a whole SQLite database: it stays on this node only", inode.name)

    async def _finish_load(self, inode: Inode, served: ServedDatabase) -> None:
        await self.loop.drive(served.finish_load())
        if served.load is None:
            self._keep_attributes(inode, served)  # the times that `cp -p` set before it closed, too

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Reads; fewer bytes at the end of the file."""
        # Hot, like `write`: guarded by hand, for a wrapper would be one more coroutine per request.
        try:
            handle = self._handles[fh]
            served = handle.inode.served
            if handle.inode.kind is Kind.DATABASE and served is not None:
                warm = served.database.base.warming(offset, size)
                if warm is not None:
                    await self.loop.offload(warm)
            return self._read(handle, offset, size)
        except Exception as error:
            raise self.answer_to(error, "read") from error

    def _read(self, handle: Handle, offset: int, size: int) -> bytes:
        inode = handle.inode
        served = inode.served
        # The old pages of a replaced database are still there: who maps them would get no errno, only SIGBUS. Whoever
        # begins a transaction looks at the attributes first, and fails.
        if inode.is_dead and not (inode.kind is Kind.DATABASE and served is not None and served.is_replaced):
            raise pyfuse3.FUSEError(errno.ESTALE)
        if inode.scratch is not None:
            return inode.scratch.read(offset, size)
        if inode.kind is Kind.DATABASE:
            assert served is not None
            return served.read(offset, size)
        if inode.kind is Kind.POS or handle.content is None:
            handle.content = special_content(inode, self.view)
        return handle.content[offset : offset + size]

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Writes; in WAL and PERSIST mode this may be a commit."""
        try:
            handle = self._handles[fh]
            served = handle.inode.served
            if served is not None and served.load is not None:
                await let_load_commit(self.loop, served)
            steps = self._write(handle, offset, data)
            if steps is not None:
                await self.loop.drive(steps)
            handle.inode.note_change()
            self.loop.spin()
            return len(data)
        except Exception as error:
            raise self.answer_to(error, "write") from error

    def _write(self, handle: Handle, offset: int, data: bytes) -> Steps[None] | None:
        inode = handle.inode
        served = inode.served
        if inode.kind in TRANSACTION_KINDS and served is not None:
            if served.dead:
                raise pyfuse3.FUSEError(errno.ESTALE)
            if not inode.unlinked:
                return self._write_beside(inode, served, offset, data)
        if inode.kind is Kind.DATABASE:
            if inode.is_dead:
                raise pyfuse3.FUSEError(errno.ESTALE)
            assert served is not None
            handle.wrote = True
            return served.write(offset, data, by_sqlite=handle.by_sqlite)
        if inode.scratch is None:
            raise pyfuse3.FUSEError(errno.EIO)
        if self.refuses_opens and inode.kind is Kind.SHM and offset + len(data) > inode.scratch.size:
            # Its application would map what it makes, and nobody would be there any more to read it from: SIGBUS.
            raise pyfuse3.FUSEError(errno.ENOTCONN)
        inode.scratch.write(offset, data)
        return None

    def _write_beside(self, inode: Inode, served: ServedDatabase, offset: int, data: bytes) -> Steps[None] | None:
        if inode.kind is Kind.JOURNAL:
            return served.journal.write(offset, data)
        log = served.database.log
        before = log.last_txid
        steps = served.wal.write(offset, data)
        if log.last_txid != before:
            self._wal_sync.committed(served.database)
        return steps

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        """The application wants its transaction durable: for us that is the log."""
        inode = self._handles[fh].inode
        served = inode.served
        if served is None or inode.unlinked or inode.is_dead:
            return
        self.loop.spin()
        if inode.kind is Kind.DATABASE:
            await let_load_commit(self.loop, served)
            await self.loop.drive(served.sync())
        elif inode.kind is Kind.JOURNAL:
            served.journal.sync()
        elif inode.kind is Kind.WAL:
            await self._wal_sync.wait(served.database)
        self.loop.spin()

    # ---- attributes ----

    @guarded
    async def getattr(self, number: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Returns the attributes of an inode."""
        inode = self._inode(number)
        if inode.is_dead:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return inode.entry(self._size(inode))

    @guarded
    async def setattr(
        self,
        number: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Sets size, mode, owner or times. A journal cut to nothing is a commit."""
        inode = self._inode(number)
        if inode.is_dead:
            raise pyfuse3.FUSEError(errno.ESTALE)
        if fields.update_size:
            handle = self._handles[fh] if fh is not None else Handle(inode, os.O_WRONLY)
            handle.wrote = True
            await self._truncate(inode, attr.st_size, handle)
            self.loop.spin()
        if fields.update_mode:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            inode.uid = attr.st_uid
        if fields.update_gid:
            inode.gid = attr.st_gid
        if fields.update_atime:
            inode.atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            inode.mtime_ns = attr.st_mtime_ns
        inode.ctime_ns = time.time_ns()
        if inode.kind is Kind.DATABASE and inode.served is not None and not fields.update_size:
            self._keep_attributes(inode, inode.served)
        return inode.entry(self._size(inode))

    async def _truncate(self, inode: Inode, size: int, handle: Handle) -> None:
        served = inode.served
        if inode.kind is Kind.DATABASE:
            assert served is not None
            await let_load_commit(self.loop, served)
            served.truncate(size, by_sqlite=handle.by_sqlite)
            if handle.inode is inode and served.load is not None and not inode.handle_n:
                await self._finish_load(inode, served)
        elif inode.scratch is None:
            raise pyfuse3.FUSEError(errno.EIO)
        elif served is None or inode.kind is Kind.SHM or inode.unlinked:
            inode.scratch.truncate(size)
        elif inode.kind is Kind.WAL:
            served.wal.truncate(size)
        else:
            await self.loop.drive(served.journal.truncate(size))
        inode.note_change()
