"""Makes WAL commits durable, before the fsync asks for it where experience says that it will.

Strategy: with `synchronous=FULL` each commit's last write is followed by an fsync of the WAL. When the commit
before was, the log is synced as soon as this one is in it: the disk works while the answer travels to the
application and its fsync travels back. With NORMAL a commit was not followed by an fsync, and nothing is begun.
"""

from dataclasses import dataclass

from litefs.errors import DiskLostError
from litefs.filesystem.loop import Loop, Waiter
from litefs.storage.database import Database


@dataclass(slots=True)
class _Habit:
    """What one database does. `running` is completed when the sync under way ends."""

    is_asked_for: bool = False
    running: Waiter | None = None


class WalSync:
    """Syncs logs for WAL commits."""

    def __init__(self, loop: Loop) -> None:
        """Args: loop: drives the steps of storage."""
        self._loop = loop
        self._habits: dict[str, _Habit] = {}

    def committed(self, database: Database) -> None:
        """A commit is in the log, not synced."""
        habit = self._habits.get(database.name)
        if habit is None:
            habit = self._habits[database.name] = _Habit()
        if habit.is_asked_for and habit.running is None:
            habit.running = Waiter(self._loop)
            self._loop.spawn(self._run(database, habit, habit.running), "wal-sync")
        habit.is_asked_for = False

    async def wait(self, database: Database) -> None:
        """Returns when every commit in the log is durable.

        Raises:
            DiskLostError: a commit was answered already: it can be neither refused nor promised.
        """
        habit = self._habits.get(database.name)
        if habit is not None:
            habit.is_asked_for = True
            if habit.running is not None:
                await habit.running
        log = database.log
        if log.durable_txid < log.last_txid:
            await self._sync(database)

    async def _run(self, database: Database, habit: _Habit, done: Waiter) -> None:
        try:
            await self._sync(database)
        except DiskLostError:
            pass  # whoever waits tries again, and is told
        finally:
            habit.running = None
            done.complete()

    async def _sync(self, database: Database) -> None:
        try:
            await self._loop.drive(database.sync_log())
        except OSError as error:
            raise DiskLostError(f"{database.name}: log sync: {error}") from error
