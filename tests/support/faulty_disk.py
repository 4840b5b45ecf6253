"""A disk that fails at a chosen call, and that knows what would be left of it after a power cut.

Strategy: every call is carried out for real in a directory, without its syncs, and noted in a model:
per file the writes and size changes since its last sync, per directory the names since its last sync.
`leave` makes the directory that a power cut at this instant may leave behind: all that was synced, and of
the rest whatever the seed says, sector by sector, in any order.

What the model assumes of a disk and a file system, and no more:
    a sector of 512 bytes is written whole or not at all; sectors are written in any order
    a sync makes durable what was written to that file before, its size included, but not its name
    a failed sync leaves everything since the last good one in doubt for ever: the next sync does not repeat it
    names in one directory survive as a prefix of their changes, or as any subset of them, until it is synced
"""

import errno
import fnmatch
import itertools
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from litefs.storage.disk import Buffer, Disk

SECTOR_BYTES = 512
NOTHING_UNSYNCED = 0
"""Seed: nothing survives that was not synced."""
EVERYTHING = 1
"""Seed: everything survives, as when only the process dies."""

Node: TypeAlias = "_File | _Directory"
Binding: TypeAlias = "Mapping[str, _File | _Directory | None]"
Keep = Callable[[], bool]


@dataclass(slots=True)
class _Change:
    """A write at `offset`, or the new size `offset` if `data` is None."""

    offset: int
    data: bytes | None
    is_durable: bool = False
    is_in_doubt: bool = False

    def apply(self, content: bytearray) -> None:
        end = self.offset + len(self.data or b"")
        if end > len(content):
            content.extend(bytes(end - len(content)))
        if self.data is None:
            del content[self.offset :]
        else:
            content[self.offset : end] = self.data

    def sectors(self) -> "list[_Change]":
        if self.data is None:
            return [self]
        end = self.offset + len(self.data)
        edges = [self.offset, *range(self.offset - self.offset % SECTOR_BYTES + SECTOR_BYTES, end, SECTOR_BYTES), end]
        return [
            _Change(start, self.data[start - self.offset : stop - self.offset])
            for start, stop in itertools.pairwise(edges)
        ]


@dataclass(slots=True, eq=False)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def synced(self) -> None:
        for change in self.changes:
            change.is_durable = not change.is_in_doubt
        while self.changes and self.changes[0].is_durable:
            self.changes.pop(0).apply(self.durable)

    def sync_failed(self) -> None:
        for change in self.changes:
            change.is_in_doubt = not change.is_durable

    def after_crash(self, keep: Keep) -> bytes:
        content = bytearray(self.durable)
        for change in self.changes:
            for sector in change.sectors():
                if change.is_durable or keep():
                    sector.apply(content)
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Directory:
    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    changes: list[Binding] = field(default_factory=list)

    def change(self, names: Binding) -> None:
        """Binds names to nodes, and takes those away that are bound to None: at once, as a rename does."""
        self.changes.append(names)
        _bind(self.names, names)

    def synced(self) -> None:
        for names in self.changes:
            _bind(self.durable, names)
        self.changes.clear()

    def after_crash(self, chance: random.Random | None, keep: Keep) -> dict[str, Node]:
        names = dict(self.durable)
        if chance is not None and chance.random() < 0.5:
            survivors = self.changes[: chance.randint(0, len(self.changes))]
        else:
            survivors = [change for change in self.changes if keep()]
        for survivor in survivors:
            _bind(names, survivor)
        return names


def _bind(bound: dict[str, Node], change: Binding) -> None:
    for name, node in change.items():
        if node is None:
            bound.pop(name, None)
        else:
            bound[name] = node


class QuickDisk(Disk):
    """A plain disk that syncs nothing: for tests that look at no crash."""

    def sync(self, label: str, fd: int) -> None:
        os.fstat(fd)

    def sync_directory(self, label: str, path: Path | str) -> None:
        os.stat(path)

    def close_unnamed(self, label: str, fd: int) -> None:
        os.close(fd)


class FaultyDisk(QuickDisk):
    """Carries out calls in `root`, counts them, fails one of them, and keeps the model of what is durable.

    Attributes:
        calls: labels of all calls so far; `close` does not count, for nothing depends on it.
        fail_at: number of the call that fails, 1-based; 0: none. A failing write still writes its first half.
        error: with this errno.
        full: shell patterns over labels of writes that fail with ENOSPC.
        before_call: called with the label before each call that changes something.
    """

    def __init__(self, root: Path) -> None:
        """Takes what is in `root` now for durable."""
        self.calls: list[str] = []
        self.fail_at = 0
        self.error = errno.EIO
        self.full: tuple[str, ...] = ()
        self.before_call: Callable[[str], None] = lambda label: None
        self._path = root
        self._root = self._read_tree(root)
        self._files: dict[int, _File] = {}

    def leave(self, seed: int, target: Path) -> None:
        """Makes `target` the directory that a power cut now may leave behind; `seed` says which."""
        chance = None if seed in (NOTHING_UNSYNCED, EVERYTHING) else random.Random(seed)
        keep: Keep = (lambda: chance.random() < 0.5) if chance is not None else (lambda: seed == EVERYTHING)
        self._write_tree(self._root, target, chance, keep)

    # ---- the calls ----

    def open(self, label: str, path: Path | str, flags: int, mode: int = 0o666) -> int:
        self._enter(label, changes=bool(flags & (os.O_CREAT | os.O_TRUNC)))
        fd = super().open(label, path, flags, mode)
        if not flags & os.O_DIRECTORY:
            directory, name = self._directory(Path(path).parent), Path(path).name
            node = directory.names.get(name)
            if node is None:
                node = _File()
                directory.change({name: node})
            assert isinstance(node, _File)
            if flags & os.O_TRUNC:
                node.changes.append(_Change(0, None))
            self._files[fd] = node
        return fd

    def open_unnamed(self, label: str, directory: Path | str) -> int:
        self._enter(label)
        fd = super().open_unnamed(label, directory)
        self._files[fd] = _File()
        return fd

    def free_bytes(self, label: str, path: Path | str) -> int:
        is_full = any(fnmatch.fnmatch(label, pattern) for pattern in self.full)
        return 0 if is_full else super().free_bytes(label, path)

    def copy_attributes(self, label: str, source: Path | str, target: Path | str) -> None:
        self._enter(label, changes=False)
        super().copy_attributes(label, source, target)

    def read(self, label: str, fd: int, size: int, offset: int) -> bytes:
        self._enter(label, changes=False)
        return super().read(label, fd, size, offset)

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        try:
            self._enter_write(label)
        except OSError:
            self._write(label, fd, bytes(data)[: len(data) // 2], offset)
            raise
        self._write(label, fd, bytes(data), offset)

    def write_vector(self, label: str, fd: int, parts: Sequence[Buffer], offset: int) -> None:
        self.write(label, fd, b"".join(parts), offset)

    def sync(self, label: str, fd: int) -> None:
        try:
            self._enter(label)
        except OSError:
            self._files[fd].sync_failed()
            raise
        os.fstat(fd)
        self._files[fd].synced()

    def sync_directory(self, label: str, path: Path | str) -> None:
        self._enter(label)
        os.stat(path)
        self._directory(Path(path)).synced()

    def truncate(self, label: str, fd: int, size: int) -> None:
        self._enter_write(label)
        super().truncate(label, fd, size)
        self._files[fd].changes.append(_Change(size, None))

    def rename(self, label: str, source: Path | str, target: Path | str) -> None:
        self._enter(label)
        super().rename(label, source, target)
        old, new = self._directory(Path(source).parent), self._directory(Path(target).parent)
        node = old.names[Path(source).name]
        if old is new:
            old.change({Path(source).name: None, Path(target).name: node})
        else:
            new.change({Path(target).name: node})
            old.change({Path(source).name: None})

    def unlink(self, label: str, path: Path | str) -> None:
        self._enter(label)
        super().unlink(label, path)
        self._directory(Path(path).parent).change({Path(path).name: None})

    def remove_tree(self, label: str, path: Path | str) -> None:
        self._enter(label)
        super().remove_tree(label, path)
        self._directory(Path(path).parent).change({Path(path).name: None})

    def make_directory(self, label: str, path: Path | str) -> None:
        self._enter(label, changes=not Path(path).is_dir())
        super().make_directory(label, path)
        self._directory(Path(path))

    def copy(
        self, label: str, source_fd: int, target_fd: int, source_offset: int, target_offset: int, size: int
    ) -> int:
        data = os.pread(source_fd, size, source_offset)
        self.write(label, target_fd, data, target_offset)
        return len(data)

    # ---- the model ----

    def _enter(self, label: str, *, changes: bool = True) -> None:
        if changes:
            self.before_call(label)
        self.calls.append(label)
        if len(self.calls) == self.fail_at:
            raise OSError(self.error, f"injected at call {self.fail_at}, {label}")

    def _enter_write(self, label: str) -> None:
        self._enter(label)
        if any(fnmatch.fnmatch(label, pattern) for pattern in self.full):
            raise OSError(errno.ENOSPC, f"the disk is full at {label}")

    def _write(self, label: str, fd: int, data: bytes, offset: int) -> None:
        super().write(label, fd, data, offset)
        self._files[fd].changes.append(_Change(offset, data))

    def _directory(self, path: Path) -> _Directory:
        """Returns the directory at a path, made where the model does not know it yet."""
        directory = self._root
        for name in path.relative_to(self._path).parts:
            node = directory.names.get(name)
            if node is None:
                node = _Directory()
                directory.change({name: node})
            assert isinstance(node, _Directory)
            directory = node
        return directory

    def _read_tree(self, path: Path) -> _Directory:
        directory = _Directory()
        for child in sorted(path.iterdir()):  # or a seed would leave other things on another file system
            node = self._read_tree(child) if child.is_dir() else _File(bytearray(child.read_bytes()))
            directory.names[child.name] = directory.durable[child.name] = node
        return directory

    def _write_tree(self, directory: _Directory, target: Path, chance: random.Random | None, keep: Keep) -> None:
        target.mkdir(exist_ok=True)
        for name, node in directory.after_crash(chance, keep).items():
            if isinstance(node, _Directory):
                self._write_tree(node, target / name, chance, keep)
            else:
                (target / name).write_bytes(node.after_crash(keep))
