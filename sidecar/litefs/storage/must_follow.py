"""A mark in the data directory: this node lost something, and must not lead before it has caught up with a primary.

`<data>/must-follow` names what was set aside below `<data>/dbs-aside`, a line each. A name is there before the damaged
state is moved, and all go when a primary's state has taken its place: whatever dies in between, no node takes the lease
with a database missing, and what may be the only copy is kept.
"""

from contextlib import suppress
from pathlib import Path

from litefs.storage.disk import Disk

MUST_FOLLOW_NAME = "must-follow"

NAME_CODEC = "unicode_escape"
"""A name may hold whatever ends a line."""


class MustFollow:
    """The mark of one data directory. Written by the filesystem process, removed by the node process."""

    def __init__(self, disk: Disk, data_dir: Path) -> None:
        """Reads it.

        Raises:
            OSError: it cannot be read. Whoever took that for no mark would lead without what was lost.
        """
        self._disk = disk
        self._path = data_dir / MUST_FOLLOW_NAME
        self.kept: frozenset[str] = frozenset()
        """Names below `dbs-aside` that are not to be removed: of each database what was set aside first."""
        self.is_set = False
        with suppress(FileNotFoundError):
            content = disk.read_file("must_follow.get", self._path)
            self.kept = frozenset(line.decode(NAME_CODEC, "replace") for line in content.splitlines())
            self.is_set = True

    def add(self, name: str) -> None:
        """Sets the mark, durably, for what is about to be set aside.

        Args:
            name: that it will have, `<database>-<n>`. If there is one of the same database, that is kept and not this
                one, which can only be what a primary had sent since.

        Raises:
            OSError: it may not be there.
        """
        database = name.rpartition("-")[0]
        if self.is_set and database in {kept.rpartition("-")[0] for kept in self.kept}:
            return
        self.kept |= {name}
        content = b"".join(kept.encode(NAME_CODEC) + b"\n" for kept in sorted(self.kept))
        self._disk.replace_file("must_follow.add", self._path, content)
        self.is_set = True

    def clear(self) -> None:
        """Removes it.

        Crash: where the removal is not durable the node only has to catch up once more.

        Raises:
            OSError: it may still be there.
        """
        with suppress(FileNotFoundError):
            self._disk.unlink("must_follow.clear", self._path)
        self.is_set, self.kept = False, frozenset()
