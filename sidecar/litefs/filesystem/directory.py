"""The names of the mount: finding, making, removing, replacing and listing files, and what requests for files share.

Strategy: there is one directory. A name tells what a file is (`names`); databases show when storage says that they
exist, everything else when it has an inode under its name.
"""

import errno
import logging
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import pyfuse3

from litefs.filesystem.answers import Answers, guarded
from litefs.filesystem.handles import Handle
from litefs.filesystem.inodes import (
    NAME_TIMEOUT_S,
    SPECIAL_KINDS,
    START_SHIFT,
    TRANSACTION_KINDS,
    UNCACHED_KINDS,
    UNREPLICATED_KINDS,
    Inode,
    InodeTable,
    Kind,
    absent,
)
from litefs.filesystem.loads import end_load, let_load_commit
from litefs.filesystem.loop import Loop
from litefs.filesystem.names import classify
from litefs.filesystem.special_files import ClusterView, special_content
from litefs.formats.database_name import NAME_BYTES_MAX
from litefs.storage.database import Database
from litefs.storage.scratch import ScratchFile
from litefs.storage.served import ServedDatabase
from litefs.storage.store import Store

_log = logging.getLogger("litefs.filesystem")


class Directory(Answers):
    """The root directory. `Operations` adds the requests for files that are open, or known by their inode."""

    def __init__(self, store: Store, inodes: InodeTable, loop: Loop, view: ClusterView) -> None:
        """Args: store: recovered; inodes: with every database in it."""
        super().__init__(store.data_dir.path)
        self.store = store
        self.inodes = inodes
        self.loop = loop
        self.view = view
        self.node_pid = 0
        self.refuses_opens = False
        """The mount is about to go: only the node process opens files, and no `-shm` grows."""
        self.on_shm_created: Callable[[str], None] = lambda name: None
        self.on_first_journal: Callable[[Database], None] = lambda database: None
        self.invalidate: Callable[[Inode], None] = lambda inode: None
        self._handles: dict[int, Handle] = {}
        self._listing: list[tuple[int, str]] = []
        """As it was when somebody began to list: one for all, since what is there keeps its place."""
        self._next_handle = 0

    # ---- names ----

    @guarded
    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Finds a name; an absent one is remembered by the kernel unless the server itself may make it."""
        inode = self._find(os.fsdecode(name))
        if inode is None:
            kind, _ = classify(os.fsdecode(name))
            return absent(0.0 if kind in SPECIAL_KINDS or kind is Kind.REPLACEMENT else NAME_TIMEOUT_S)
        inode.lookup_n += 1
        return inode.entry(self._size(inode))

    def _find(self, name: str) -> Inode | None:
        inode = self.inodes.by_name.get(name)
        if inode is not None:
            return inode
        kind, owner = classify(name)
        if kind in (Kind.POS, Kind.LOCK):
            served = self.store.database(owner)
            if served is None:
                return None
            inode = self.inodes.special(kind, name)
            inode.served = served
            return inode
        if kind is Kind.LAG or (kind is Kind.PRIMARY and self.view.primary):
            return self.inodes.special(kind, name)
        return None

    @guarded
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Makes and opens a file. For a rollback journal: a transaction may begin, if this node may commit."""
        self._check_may_open(ctx)
        text = self._checked_name(name)
        kind, owner = classify(text)
        if kind in SPECIAL_KINDS or kind is Kind.REPLACEMENT:
            raise pyfuse3.FUSEError(errno.EACCES)
        if len(owner.encode()) > NAME_BYTES_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        if kind not in UNREPLICATED_KINDS and not self.store.gate.is_open and not self._is_node(ctx):
            # A WAL that came with a new state lies behind the kernel's memory that there was none. On ESTALE the kernel
            # asks anew what there is; EEXIST ends that memory, too, but not before Linux 6.6.
            if text in self.inodes.by_name:
                raise pyfuse3.FUSEError(errno.ESTALE)
            self.refused_n["not-primary"] += kind is not Kind.WAL  # readers, too, try to make one
            raise pyfuse3.FUSEError(errno.EACCES)
        beside = self.store.databases.get(owner)
        if beside is not None and beside.is_being_replaced and kind in TRANSACTION_KINDS and not self._is_node(ctx):
            raise pyfuse3.FUSEError(errno.EBUSY)
        await let_load_commit(self.loop, beside)
        inode = self.inodes.by_name.get(text)
        if inode is None:
            inode = self._make(kind, text, owner, mode & ~ctx.umask, ctx)
        self.loop.spin()
        return self._open_handle(inode, flags), self._entry_with_lookup(inode)

    def make_wal(self, name: str, served: ServedDatabase) -> None:
        """Makes an empty WAL beside a database, with the database's mode and owner."""
        database = self.inodes.by_name[name]
        inode = self.inodes.add(Kind.WAL, name + "-wal", database.mode, database.uid, database.gid)
        served.wal.create()
        inode.served, inode.scratch = served, served.wal.file

    def _make(self, kind: Kind, name: str, owner: str, mode: int, ctx: pyfuse3.RequestContext) -> Inode:
        uid, gid = ctx.uid, ctx.gid
        if (kind is not Kind.JOURNAL or not self.store.gate.is_open) and self._is_node(ctx):
            # Whoever may use the database may use what replication makes beside it; a new one is the directory's.
            like = self.inodes.by_name.get(owner) or self.inodes.root
            mode, uid, gid = like.mode & 0o666, like.uid, like.gid
        is_no_databases = kind in (Kind.SUPER_JOURNAL, Kind.TEMPORARY)
        served = None if is_no_databases else self._served_for_new(kind, owner)
        inode = self.inodes.add(kind, name, mode, uid, gid, named=False)
        if served is None:
            inode.scratch = ScratchFile(self.store.disk, self.store.data_dir.path)
            if kind is Kind.SUPER_JOURNAL:
                self.store.super_journals[name.encode()] = inode.scratch
        else:
            inode.served = served
            if kind is Kind.DATABASE:
                self._keep_attributes(inode, served)
            elif kind is Kind.JOURNAL:
                served.journal.create()
                inode.scratch = served.journal.file
                if not served.database.txid:
                    self.on_first_journal(served.database)
            elif kind is Kind.WAL:
                served.wal.create()
                inode.scratch = served.wal.file
            else:
                inode.scratch = served.shm = ScratchFile(self.store.disk, served.database.directory)
                self.on_shm_created(owner)
        self.inodes.give_name(inode)
        return inode

    def _served_for_new(self, kind: Kind, owner: str) -> ServedDatabase:
        """Returns the database that a new file belongs to; one without a database file is made, not showing.

        What lies beside it under its name is its own, but what a dropped one of the same name left is not: SQLite would
        take the frames of the old WAL for pages of the new database. On ESTALE the kernel asks anew what there is.
        """
        served = self.store.databases.get(owner)
        if kind is not Kind.DATABASE and served is not None and not served.dead:
            return served
        served = self.store.create(owner, shows=kind is Kind.DATABASE)
        for suffix in ("-journal", "-wal", "-shm"):
            beside = self.inodes.by_name.get(owner + suffix)
            if beside is None:
                continue
            if beside.served is not None and beside.served.dead:
                self.inodes.unname(beside)
            else:
                beside.served = served
        return served

    @guarded
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Removes a file: of a journal the commit, of a database its drop."""
        text = os.fsdecode(name)
        inode = self.inodes.by_name.get(text)
        if inode is None:
            raise pyfuse3.FUSEError(errno.EACCES if self._find(text) else errno.ENOENT)
        served = inode.served
        self.loop.spin()
        if inode.kind is Kind.SUPER_JOURNAL:
            await self.loop.drive(self.store.unlink_super_journal(text.encode()))
        elif served is None:
            if inode.kind is not Kind.TEMPORARY:
                raise pyfuse3.FUSEError(errno.EACCES)
        elif inode.kind is Kind.JOURNAL:
            if inode.scratch is served.journal.file:
                forget = served.is_being_replaced and self._is_node(ctx)
                await self.loop.drive(served.journal.abandon() if forget else served.journal.unlink())
        elif inode.kind is Kind.WAL:
            if not self.store.gate.is_open and not self._is_node(ctx):
                raise pyfuse3.FUSEError(errno.EACCES)
            served.wal.unlink()
        elif inode.kind is Kind.SHM:
            if not self.store.gate.is_open and not self._is_node(ctx):
                raise pyfuse3.FUSEError(errno.EACCES)
            served.shm = None
        else:
            await end_load(self.loop, served)
            await self.loop.drive(self.store.drop(text))
            self.invalidate(inode)
        self.inodes.unname(inode)

    @guarded
    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """The flip of a replacement, by the node process. Nobody else may rename; databases are moved by copying."""
        kind, owner = classify(os.fsdecode(name_old))
        target = os.fsdecode(name_new)
        if kind is Kind.DATABASE and classify(target)[0] is Kind.DATABASE:
            # Two logs would have to change in one step. EXDEV makes `mv` copy the file, and remove the old one.
            raise pyfuse3.FUSEError(errno.EXDEV if self.store.gate.is_open else errno.EACCES)
        source = self.inodes.by_name.get(os.fsdecode(name_old))
        if kind is not Kind.REPLACEMENT or owner != target or source is None or not self._is_node(ctx):
            raise pyfuse3.FUSEError(errno.EPERM)
        old = self.inodes.by_name.get(target)
        before = self.store.databases.get(target)
        with ExitStack() as kept:
            if before is not None:
                kept.enter_context(before.database.base.in_use())
            try:
                served = await self.loop.drive(self.store.flip_replacement(target))
            finally:
                if before is not None:
                    before.is_being_replaced = False
            if old is not None:
                self.inodes.unname(old, kept.pop_all())
        for inode in list(self.inodes.by_number.values()):
            if inode.is_dead and inode.served is before:
                self.invalidate(inode)
        del self.inodes.by_name[source.name]
        source.become_database(target, served)
        self._keep_attributes(source, served)
        self.inodes.give_name(source)
        if served.database.wal_mode and not self.store.gate.is_open:
            self.make_wal(target, served)

    # ---- directories ----

    @guarded
    async def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Lists what stands behind the place `start`. The kernel asks piece by piece, and keeps what it was told."""
        if not start:
            self._listing = sorted(self._places())
        for place, name in self._listing[bisect_left(self._listing, (start + 1, "")) :]:
            if (inode := self._find(name)) is not None:
                if not pyfuse3.readdir_reply(token, os.fsencode(name), inode.entry(self._size(inode)), place):
                    return
                inode.lookup_n += 1

    def _places(self) -> Iterator[tuple[int, str]]:
        """Yields what a listing shows, each with a place of its own: what comes or goes meanwhile hides no other."""
        specials = (".lag", ".primary")
        yield from enumerate(specials, 1)
        for name, inode in self.inodes.by_name.items():
            if inode.kind is Kind.REPLACEMENT:
                continue
            place = len(specials) + 2 * (inode.number % (1 << START_SHIFT))
            yield place, name
            if inode.kind is Kind.DATABASE:
                yield place + 1, name + "-pos"

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel gives back references to inodes."""
        for number, lookup_n in inode_list:
            self.inodes.forget(number, lookup_n)

    # ---- what requests for files share ----

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _open_handle(self, inode: Inode, flags: int) -> pyfuse3.FileInfo:
        fh = self._new_handle()
        self._handles[fh] = Handle(inode, flags)
        inode.handle_n += 1
        uncached = inode.kind in UNCACHED_KINDS
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh), keep_cache=not uncached, direct_io=uncached)

    def _keep_attributes(self, inode: Inode, served: ServedDatabase) -> None:
        fd = served.database.base.fd
        os.fchmod(fd, stat.S_IMODE(inode.mode))
        with suppress(PermissionError):  # only root gives files away: the owner holds until we end
            os.fchown(fd, inode.uid, inode.gid)
        os.utime(fd, ns=(inode.atime_ns, inode.mtime_ns))

    def _size(self, inode: Inode) -> int:
        if inode.kind is Kind.DATABASE:
            assert inode.served is not None
            return inode.served.size
        if inode.scratch is not None:
            return inode.scratch.size
        return len(special_content(inode, self.view)) if inode.kind in SPECIAL_KINDS else 0

    def _inode(self, number: int) -> Inode:
        inode = self.inodes.by_number.get(number)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return inode

    def _entry_with_lookup(self, inode: Inode) -> pyfuse3.EntryAttributes:
        inode.lookup_n += 1
        return inode.entry(self._size(inode))

    def _checked_name(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            _log.warning("%r: names must be UTF-8, for they travel between nodes", name)
            raise pyfuse3.FUSEError(errno.EILSEQ) from None

    def _check_may_open(self, ctx: pyfuse3.RequestContext) -> None:
        if self.refuses_opens and not self._is_node(ctx):
            raise pyfuse3.FUSEError(errno.ENOTCONN)  # as the kernel says a moment later

    def _is_node(self, ctx: pyfuse3.RequestContext) -> bool:
        """The request comes from a thread of the node process. `ctx.pid` is a thread id; 0: another pid namespace."""
        return bool(self.node_pid and ctx.pid and os.path.exists(f"/proc/{self.node_pid}/task/{ctx.pid}"))
