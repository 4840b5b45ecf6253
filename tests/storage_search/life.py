"""One life of a store: what applications, the node process and the housekeeper do to it, each as steps.

Every method that returns steps is one piece of work. It tells the model what it tried, what was answered, and
what was called durable. Who may do what at the same time is as in the filesystem process: one application writes to a
database at a time, and each kind of housekeeping has one task.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from litefs.errors import CommitRefusedError, CorruptStateError, DiskLostError
from litefs.filesystem.snapshots import open_snapshot
from litefs.formats.checksum import page_checksums
from litefs.storage import replacement
from litefs.storage.database import Database
from litefs.storage.disk import Disk
from litefs.storage.followed import append_image
from litefs.storage.incoming import IncomingDatabase, discard_incoming
from litefs.storage.served import ServedDatabase
from litefs.storage.snapshot import SnapshotReader
from litefs.storage.state import DatabaseState
from litefs.storage.steps import Steps
from tests.storage_search.limits import PAGE_SIZES, PAGES_MAX
from tests.storage_search.model import Model, State
from tests.storage_search.source import FOLLOWED, Source
from tests.support.sqlite_player import PAGE_SIZE, JournalEnd, Player, Refusal, commit_together_steps
from tests.support.storage_world import NEVER, NODE_ID, World

NAMES = ("a.db", "b.db", "c.db")
"""The databases that applications write to."""


class Life:
    """From a start to the next power cut, or the death of the process.

    Attributes:
        busy: databases that SQLite, or the node process for its import, has locked.
        loading: databases that a program which asks for no lock writes over.
        refused_n, committed_n: how many transactions were.
    """

    def __init__(self, root: Path, disk: Disk, model: Model, draw: random.Random, source: Source) -> None:
        """Recovers what lies in `root`."""
        self.world = World(root, disk, sync_every_commit=draw.random() < 0.1)
        self.model = model
        self.busy: set[str] = set()
        self.loading: set[str] = set()
        self.refused_n = self.committed_n = 0
        self._draw = draw
        self._next_snapshot = 1
        self._replaced: set[str] = set()  # about to be
        self._source = source
        self.players = {name: self._connect(name) for name in (*NAMES, FOLLOWED)}

    def _connect(self, name: str) -> Player:
        page_size = PAGE_SIZE if name == FOLLOWED else self._draw.choice(PAGE_SIZES)
        is_new = self.world.store.database(name) is None
        player = Player(self.world.store, name, page_size=page_size, seed=self._draw.getrandbits(32), create=is_new)
        if player.wal and player.served.wal.file is None:
            player.served.wal.create()
        return player

    def database(self, name: str) -> Database:
        return self.world.database(name)

    def is_free(self, name: str) -> bool:
        """Nobody else writes to a database."""
        return name not in self.busy and name not in self.loading

    def found(self) -> dict[str, State]:
        """Returns what the store shows."""
        shown = {}
        for name, served in self.world.store.databases.items():
            database = served.database
            shown[name] = State(database.txid, served.read(0, 1 << 30), database.page_size)
        return shown

    # ---- what is under way ----

    @contextmanager
    def _trying(self, states: Mapping[str, State], *, durable: bool, is_whole: bool = False) -> Iterator[int]:
        """Within, these states are under way; behind it they are answered, or were refused."""
        number = self.model.begin(states, durable=durable)
        if is_whole:
            self._replaced.update(states)
        try:
            yield number
        except DiskLostError:
            raise
        except Refusal:
            self.model.give_up(number)
            self.refused_n += 1
        else:
            self.model.accept(number, durable=durable or self.world.settings.sync_every_commit, is_whole=is_whole)
            self.committed_n += 1
        finally:
            self._replaced.difference_update(states if is_whole else ())

    def _next_state(self, player: Player, content: bytes, page_size: int | None = None) -> State:
        return State(self.database(player.name).txid + 1, content, page_size or player.page_size)

    def _draw_change(self, player: Player) -> list[bytes]:
        """Returns the pages of a next state: a few of them new; it grows, with holes, or shrinks, or keeps its size."""
        draw, before = self._draw, len(player.pages)
        page_n = before if before and draw.random() < 0.6 else draw.randint(1, PAGES_MAX)
        share = draw.choice([0.0, 0.2, 0.7])
        pgnos = [pgno for pgno in range(1, page_n + 1) if draw.random() < share]
        holes = [pgno for pgno in range(max(before, 1) + 1, page_n) if not player.wal and draw.random() < 0.4]
        return player.change(pgnos, page_n, holes=holes)

    # ---- applications ----

    def commit(self, name: str) -> Steps[None]:
        """A transaction in the journal mode of the database."""
        player = self.players[name]
        if player.wal:
            yield from self._wal_commit(player)
            return
        after, sync = self._draw_change(player), self._draw.random() < 0.5
        end = self._draw.choice(list(JournalEnd))
        with self._trying({name: self._next_state(player, b"".join(after))}, durable=sync):
            yield from player.commit_steps(after, sync=sync, end=end)

    def _wal_commit(self, player: Player) -> Steps[None]:
        after = self._draw_change(player)
        with self._trying({player.name: self._next_state(player, b"".join(after))}, durable=False):
            yield from player.wal_commit_steps(after)
        if self._draw.random() < 0.5:
            yield from self.sync(player.name)

    def sync(self, name: str) -> Steps[None]:
        """The sync of a WAL."""
        ordinal = self.model.of(name).last
        yield from self.database(name).sync_log()
        self.model.of(name).note_durable(ordinal)

    def abandon(self, name: str) -> Steps[None]:
        """A transaction that is rolled back when all its pages are written and synced."""
        player = self.players[name]
        if player.wal or not player.pages:
            return
        after = self._draw_change(player)
        number = self.model.begin({name: self._next_state(player, b"".join(after))}, durable=False)
        try:
            player.begin(after, sync=True)
            yield None
            yield from player.write_pages_steps(after, sync=True)
            yield None
        except DiskLostError:
            raise
        except Refusal:
            self.refused_n += 1
        yield from player.roll_back_steps()
        self.model.give_up(number)

    def commit_together(self, names: list[str]) -> Steps[None]:
        """A transaction over several databases."""
        players = [self.players[name] for name in names]
        afters = [self._draw_change(player) for player in players]
        sync = self._draw.random() < 0.7
        durable = sync or self.world.settings.sync_every_commit
        states = {
            player.name: self._next_state(player, b"".join(after))
            for player, after in zip(players, afters, strict=True)
        }
        number = self.model.begin(states, durable=durable)
        decided: list[int] = []

        def on_decided() -> None:
            self.model.accept(number, durable=durable)
            decided.append(number)

        try:
            yield from commit_together_steps(
                players, afters, sync=sync, end=self._draw.choice(list(JournalEnd)), on_decided=on_decided
            )
            self.committed_n += 1
        except DiskLostError:
            raise
        except Refusal:
            assert not decided, "a transaction was refused that was decided"
            self.model.give_up(number)
            self.refused_n += 1

    def change_mode(self, name: str) -> Steps[None]:
        """`PRAGMA journal_mode`, from WAL to DELETE or the other way."""
        player = self.players[name]
        if not player.pages:
            return
        if player.wal:
            yield from player.close_wal_steps()
            self.model.of(name).note_durable(self.model.of(name).last)
        after, to_wal = player.change([1], wal=not player.wal), not player.wal
        with self._trying({name: self._next_state(player, b"".join(after))}, durable=True):
            yield from player.commit_steps(after)
        player.wal = bool(player.pages[0][18] == 2)
        if player.wal and player.served.wal.file is None:
            player.served.wal.create()
        assert player.wal is to_wal or player.pages is not after

    def checkpoint_wal(self, name: str) -> Steps[None]:
        """A checkpoint of some frames, or of all."""
        player = self.players[name]
        if player.wal:
            try:
                yield from player.checkpoint_steps(self._draw.choice([None, self._draw.randint(0, 9)]))
            except DiskLostError:
                raise
            except OSError:
                self.refused_n += 1

    def vacuum(self, name: str) -> Steps[None]:
        """VACUUM with another page size."""
        player = self.players[name]
        if player.wal or not player.pages:
            return
        page_size = self._draw.choice([size for size in PAGE_SIZES if size != player.page_size])
        data = player.vacuum(page_size, self._draw.randint(1, PAGES_MAX))
        with self._trying({name: self._next_state(player, data, page_size)}, durable=True, is_whole=True):
            yield from player.commit_bytes_steps(data, sync=self._draw.random() < 0.7)

    def load(self, name: str) -> Steps[None]:
        """`cp` of another database over this one."""
        player = self.players[name]
        if player.wal or not player.pages:
            return
        served = player.served
        content = b"".join(player.change(range(1, PAGES_MAX), self._draw.randint(1, PAGES_MAX)))
        with self._trying({name: self._next_state(player, content)}, durable=True, is_whole=True):
            yield from player.load_steps(content)
        self._end_load(player, served)

    def edit(self, name: str) -> Steps[None]:
        """A program that is not SQLite writes into the database; it begins with a copy of what is there."""
        player = self.players[name]
        if player.wal or not player.pages:
            return
        served, pgno = player.served, self._draw.randint(2, len(player.pages) + 1)
        page = self._draw.randbytes(player.page_size)
        content = b"".join([*player.pages[: pgno - 1], page, *player.pages[pgno:]])
        with self._trying({name: self._next_state(player, content)}, durable=True, is_whole=True):
            yield from served.write((pgno - 1) * player.page_size, page, by_sqlite=False) or ()
            yield None
            yield from served.sync()
        self._end_load(player, served)

    def _end_load(self, player: Player, served: ServedDatabase) -> None:
        """A load that was refused is shown until its program tries again."""
        if served.load is not None:
            served.load.discard()
            served.load = None
        player.look()

    def drop(self, name: str) -> Steps[None]:
        """An unlink of the database and its WAL; then it is made again."""
        player = self.players[name]
        if not player.pages:
            return
        with self._trying({name: self._next_state(player, b"")}, durable=False):
            yield from self.world.store.drop(name)
        if not player.served.database.exists:
            if player.wal:
                player.served.wal.unlink()
            self.players[name] = self._connect(name)

    # ---- what follows a primary ----

    def receive(self, name: str) -> Steps[None]:
        """The next image goes into the log."""
        database, history = self.database(name), self.model.of(name)
        txid = database.logged_txid + 1
        image = self._source.image(txid)
        state = self._source.states[txid]
        number = self.model.begin({name: state}, durable=False)
        if not database.log.has_room(len(image)):
            yield from database.log.make_room(len(image))
        append_image(database, image)
        self.model.give_up(number)
        history.log(state)

    def apply(self, name: str) -> Steps[None]:
        """One image, or some of them at once, come through the mount."""
        player, database = self.players[name], self.database(name)
        images = list(database.expected)[: self._draw.randint(1, 3)]
        if images:
            content, size = self._source.states[images[-1].txid].content, player.page_size
            after = [content[at : at + size] for at in range(0, len(content), size)]
            end = self._draw.choice(list(JournalEnd))
            yield from player.commit_steps(after, sync=self._draw.random() < 0.3, end=end)
            self.model.of(name).show(images[-1].txid)

    # ---- the node process ----

    def import_database(self, name: str) -> Steps[None]:
        """A whole new state, written beside the old one while that is committed to, and put in its place."""
        player = self.players[name]
        if not player.pages:
            return
        disk, directory, page_size = self.world.disk, self.database(name).directory, player.page_size
        page_n = self._draw.randint(1, PAGES_MAX)
        content = b"".join(player.change(range(1, page_n + 1), page_n, wal=False))
        incoming = IncomingDatabase(directory, page_size, page_n, disk)
        incoming.write_pages(1, content)
        checksum = incoming.finish()
        while name in self.busy:
            yield None
        self.busy.add(name)
        try:
            database = self.database(name)
            state = DatabaseState(
                base_txid=database.txid + 1,
                checksum=checksum,
                page_size=page_size,
                page_n=page_n,
                group=database.group,
                after_txid=database.log.last_txid,
                incoming=incoming.name,
            )
            with self._trying({name: State(state.base_txid, content, page_size)}, durable=True, is_whole=True):
                yield from self._replace(database, state)
            if self.database(name) is not database:
                self.players[name] = self._connect(name)
        finally:
            self.busy.discard(name)

    def _replace(self, database: Database, state: DatabaseState) -> Steps[None]:
        disk, directory = database.disk, database.directory
        try:
            yield from database.alone(lambda: replacement.prepare_replacement(disk, directory, state))
        except OSError:
            discard_incoming(disk, directory, state.incoming)
            raise
        yield None
        try:
            yield from self.world.store.flip_replacement(database.name)
        except CorruptStateError as error:
            raise CommitRefusedError("another one was prepared since") from error

    def snapshot(self, name: str) -> Steps[None]:
        """Reads the database as it is now, while commits go on."""
        database = self.database(name)
        if not database.page_n:
            return
        state, snapshot_id = self.model.of(name).now, self._next_snapshot
        self._next_snapshot += 1
        opened = open_snapshot(database, snapshot_id)
        base = database.base
        try:
            yield None
            reader = SnapshotReader(opened, database.log.directory, NODE_ID, compress=False)
            try:
                read = bytearray()
                for _, run in reader.pages():
                    read += run
                    yield None
            finally:
                reader.close()
            assert read == state.content, f"{name}: a snapshot of {state.txid} shows another state"
        except (CorruptStateError, OSError) as error:
            assert base.is_retired or name in self._replaced, f"{name}: a snapshot of {state.txid} failed: {error}"
        finally:
            base.close_aside(snapshot_id)

    # ---- the housekeeper ----

    def settle(self, name: str) -> Steps[None]:
        """What comes a tenth of a second after commits."""
        database, ordinal = self.database(name), self.model.of(name).last
        yield from self.world.housekeeper.settle(database)
        self.model.of(name).note_durable(ordinal)
        if self._draw.random() < 0.5:
            yield from self._checkpoint(database)

    def tidy(self, name: str) -> Steps[None]:
        """What comes every minute."""
        database = self.database(name)
        yield from self._checkpoint(database)
        yield from self.world.housekeeper.forget(database, NEVER)
        yield from replacement.discard_old_logs(database.disk, database.directory)

    def _checkpoint(self, database: Database) -> Steps[None]:
        if self.world.housekeeper.checkpoint_due(database, 0.0):
            yield from self.world.housekeeper.checkpoint(database, 0.0)

    def prepare_segment(self, name: str) -> Steps[None]:
        """The next segment of the log."""
        yield from self.world.housekeeper.prepare_segment(self.database(name))

    # ---- what must hold between any two half-steps ----

    def check(self, names: Iterable[str] = (*NAMES, FOLLOWED)) -> None:
        """Raises AssertionError where one of these databases does not show its last state."""
        for name in names:
            self._check_database(name)

    def _check_database(self, name: str) -> None:
        served, history = self.world.store.databases[name], self.model.of(name)
        database, state = served.database, history.now
        assert database.txid == state.txid, f"{name} is at {database.txid}, not at {state.txid}"
        if state.content:
            assert database.page_n * database.page_size == len(state.content), f"{name}: {database.page_n} pages"
            sums = page_checksums(state.content, state.page_size, 1)
            wrong = [pgno for pgno, sum_ in enumerate(sums, 1) if database.sums[pgno - 1] != sum_]
            assert not wrong, f"{name} at {state.txid}: pages {wrong} have other checksums"
            for pgno in range(1, database.page_n + 1):
                if pgno not in database.stale:
                    page = state.content[(pgno - 1) * state.page_size : pgno * state.page_size]
                    assert database.base.page(pgno) == page, f"{name} at {state.txid}: page {pgno} is another"
        if self.is_free(name) and not database.wal_mode:
            assert served.read(0, 1 << 30) == state.content, f"{name}: reads at {state.txid}"
        history.note_durable_txid(database.log.durable_txid)
