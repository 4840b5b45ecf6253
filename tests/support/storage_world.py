"""A store on a faulty disk, what it promised so far, and the judge of what a crash left of it.

A scenario is a function of a `World`: it plays transactions, which may be refused, and housekeeping. The sweeps
run it with a crash before every disk call, and with every disk call failing, and judge by the promises:

    what was reported durable is there
    what was refused, voided or rolled back is not
    every state is one that some transaction left, whole, with its checksum and its log
    a transaction over several databases is in all of them or in none
    the database goes on from there, and that survives as well
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from litefs.errors import DiskLostError, LiteFSError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksums
from litefs.formats.ltx_decoder import decode_image
from litefs.storage import replacement
from litefs.storage.data_dir import DataDir
from litefs.storage.database import CommitGate, Database, StoreSettings
from litefs.storage.disk import Disk
from litefs.storage.divergence import place_for_old_state
from litefs.storage.housekeeping import Housekeeper
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.log_reader import LogReader
from litefs.storage.served import ServedDatabase
from litefs.storage.state import DatabaseState
from litefs.storage.steps import run
from litefs.storage.store import Store
from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk, QuickDisk
from tests.support.sqlite_player import Player, Refusal, commit_together

NODE_ID = 7

SEGMENT_BYTES = 24 << 10
"""Small, so that a handful of commits roll the log."""

OVERLAY_BYTES = 60 << 10
"""Small, so that a large transaction, one of more than 64 pages, spills a few of them."""

NEVER = 1e18
A_LONG_TIME_S = 1e6

SCRATCH_LABELS = ("overlay.", "scratch.")
"""Calls on files without a name: no crash finds anything of them."""


class Stopped(Exception):
    """The filesystem process would have ended here: durability is unknown."""


@dataclass(slots=True)
class Promise:
    """What one database promised: its states by txid, from which on they are durable, and what is under way."""

    states: dict[int, bytes] = field(default_factory=lambda: {0: b""})
    durable: int = 0
    last: int = 0
    under_way: tuple[int, bytes] | None = None

    def allowed(self) -> dict[int, bytes]:
        """Returns the states that a restart may show."""
        states = {txid: content for txid, content in self.states.items() if txid >= self.durable}
        if self.under_way is not None:
            states[self.under_way[0]] = self.under_way[1]
        return states


class Promises:
    """Those of all databases of a store."""

    def __init__(self) -> None:
        self.by_name: dict[str, Promise] = {}
        self.groups: list[dict[str, int]] = []

    def of(self, name: str) -> Promise:
        return self.by_name.setdefault(name, Promise())

    @contextlib.contextmanager
    def committing(self, after: Mapping[str, bytes], *, durable: bool, txid: int = 0) -> Iterator[None]:
        """Within, these databases may go to their next states; behind it they are there, unless it was refused."""
        for name, content in after.items():
            promise = self.of(name)
            promise.under_way = (txid or promise.last + 1, content)
        if len(after) > 1:
            self.groups.append({name: self.of(name).last + 1 for name in after})
        try:
            yield
        except DiskLostError:
            raise
        except Refusal:
            for name in after:
                self.of(name).under_way = None
            if len(after) > 1:
                self.groups.pop()
            raise
        for name in after:
            promise = self.of(name)
            assert promise.under_way is not None
            promise.last = promise.under_way[0]
            promise.states[promise.last] = promise.under_way[1]
            promise.under_way = None
            if durable:
                promise.durable = promise.last


class World:
    """A store in a directory, and the players in it."""

    def __init__(
        self,
        root: Path,
        disk: Disk,
        promises: Promises | None = None,
        *,
        primary: bool = True,
        sync_every_commit: bool = False,
    ) -> None:
        self.root = root
        self.disk = disk
        self.promises = promises or Promises()
        self.gate = CommitGate(float("inf") if primary else 0.0, lambda: 1.0)
        self.data_dir = DataDir(root, disk)
        self.settings = StoreSettings(
            node_id=NODE_ID,
            compress=False,
            overlay_memory_bytes=OVERLAY_BYTES,
            segment_bytes=SEGMENT_BYTES,
            sync_every_commit=sync_every_commit,
        )
        self.store = Store(self.data_dir, disk, self.settings, self.gate)
        self.housekeeper = Housekeeper(0.0)
        self.refusals: list[str] = []
        self.now_s = 0.0
        try:
            self.store.open(lambda name, done, total: None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.store.close()
        self.data_dir.close()

    def database(self, name: str = "a.db") -> Database:
        return self.store.databases[name].database

    def player(self, name: str = "a.db") -> Player:
        """Returns a connection to a new database. An application would try again where it cannot be made."""
        with contextlib.suppress(OSError):
            return Player(self.store, name)
        return Player(self.store, name)

    # ---- what scenarios do; a refusal is taken note of, and the scenario goes on ----

    @contextlib.contextmanager
    def refusable(self) -> Iterator[None]:
        try:
            yield
        except DiskLostError as error:
            raise Stopped from error
        except Refusal as error:
            self.refusals.append(str(error))

    def commit(self, player: Player, pgnos: Iterable[int], page_n: int | None = None, *, sync: bool = True) -> None:
        """One transaction in a rollback mode, with `synchronous=FULL` or, without `sync`, OFF."""
        after = player.change(pgnos, page_n)
        durable = sync or self.settings.sync_every_commit
        with self.refusable(), self.promises.committing({player.name: b"".join(after)}, durable=durable):
            player.commit(after, sync=sync)

    def commit_together(self, players: list[Player], pgnos: Iterable[int], *, sync: bool = True) -> None:
        afters = [player.change(pgnos) for player in players]
        contents = {player.name: b"".join(after) for player, after in zip(players, afters, strict=True)}
        with self.refusable(), self.promises.committing(contents, durable=sync or self.settings.sync_every_commit):
            commit_together(players, afters, sync=sync)

    def load(self, player: Player, pgnos: Iterable[int], page_n: int) -> None:
        """`cp` of another database over this one."""
        if player.served.load is None and not player.pages:
            return
        after = player.change(pgnos, page_n)
        with self.refusable(), self.promises.committing({player.name: b"".join(after)}, durable=True):
            player.load(b"".join(after))
        if player.served.load is not None:
            # Refused, and shown until the application tries again or restarts: the committed state is the old one.
            player.served.load.discard()
            player.served.load = None
            player.look()

    def vacuum(self, player: Player, page_size: int, page_n: int, *, sync: bool = True) -> None:
        data = player.vacuum(page_size, page_n)
        with self.refusable(), self.promises.committing({player.name: data}, durable=True):
            player.commit_bytes(data, sync=sync)

    def replace(
        self, player: Player, pgnos: Iterable[int], page_n: int, txid: int, *, keeps_diverged: bool = False
    ) -> None:
        """A snapshot at `txid` in the place of the database, as the node process brings it."""
        after = player.change(pgnos, page_n)
        with self.refusable(), self.promises.committing({player.name: b"".join(after)}, durable=True, txid=txid):
            directory = self.store.directory(player.name)
            incoming = IncomingDatabase(directory, player.page_size, page_n, self.disk)
            try:
                incoming.write_pages(1, b"".join(after))
                checksum = incoming.finish()
            except OSError:
                incoming.abort()
                raise
            aside = ""
            if keeps_diverged:
                last_txid = self.database(player.name).log.last_txid
                aside = place_for_old_state(
                    self.disk, self.root, directory, new_txid=txid, last_txid=last_txid, node_id=NODE_ID
                )
            state = DatabaseState(
                base_txid=txid,
                checksum=checksum,
                page_size=player.page_size,
                page_n=page_n,
                group=self.database(player.name).group,
                incoming=incoming.name,
                aside=aside,
            )
            replacement.prepare_replacement(self.disk, directory, state)
            run(self.store.flip_replacement(player.name))
        player.look()

    def drop(self, player: Player) -> None:
        """An unlink of the database; then it is made again."""
        if not player.pages:
            return
        durable = self.settings.sync_every_commit
        with self.refusable(), self.promises.committing({player.name: b""}, durable=durable):
            run(self.store.drop(player.name))
        if not player.served.database.exists:
            self.player(player.name)
        player.look()

    def abandon(self, player: Player, pgnos: Iterable[int]) -> None:
        """A transaction that is rolled back when all its pages are written and synced."""
        if player.pages:
            promise = self.promises.of(player.name)
            with self.refusable():
                after = player.change(pgnos)
                promise.under_way = (promise.last + 1, b"".join(after))
                try:
                    player.begin(after, sync=True)
                    player.write_pages(after, sync=True)
                finally:
                    player.roll_back()
            promise.under_way = None

    def enter_wal(self, player: Player) -> None:
        after = player.change([1], wal=True)
        with self.refusable(), self.promises.committing({player.name: b"".join(after)}, durable=True):
            player.commit(after)
        if player.pages is after:
            player.wal = True
            player.served.wal.create()

    def wal_commit(
        self, player: Player, pgnos: Iterable[int], page_n: int | None = None, *, sync: bool = False
    ) -> None:
        if not player.wal:
            return
        after = player.change(pgnos, page_n)
        durable = self.settings.sync_every_commit
        with self.refusable(), self.promises.committing({player.name: b"".join(after)}, durable=durable):
            player.wal_commit(after)
        if sync:
            self.sync(player)

    def sync(self, player: Player) -> None:
        """The sync of a WAL, which must not fail."""
        try:
            run(self.database(player.name).sync_log())
        except OSError as error:
            raise Stopped from error
        self.promises.of(player.name).durable = self.promises.of(player.name).last

    def checkpoint_wal(self, player: Player, frame_n: int | None = None) -> None:
        if not player.wal:
            return
        self.sync(player)
        with self.refusable():
            player.checkpoint(frame_n)

    def tidy(self) -> None:
        """All the housekeeping there is, now."""
        for served in list(self.store.databases.values()):
            database = served.database
            try:
                run(self.housekeeper.settle(database))
            except OSError as error:
                raise Stopped from error
            promise = self.promises.of(database.name)
            promise.durable = promise.last
            run(self.housekeeper.prepare_segment(database))
            with self.refusable():
                self.housekeeper.checkpoint_due(database, self.now_s)
                self.now_s += A_LONG_TIME_S
                if self.housekeeper.checkpoint_due(database, self.now_s):
                    run(self.housekeeper.checkpoint(database, self.now_s))
                run(self.housekeeper.forget(database, NEVER))


Scenario = Callable[[World], None]


# ---- judging ----


def examine(root: Path, promises: Promises, *, go_on: bool = True) -> None:
    """Opens what a crash left, and holds it against the promises."""
    world = World(root, QuickDisk(), promises)
    found: dict[str, int] = {}
    try:
        for name, promise in promises.by_name.items():
            found[name] = examine_database(world, name, promise)
        for group in promises.groups:
            reached = {found[name] >= txid for name, txid in group.items()}
            assert len(reached) == 1, f"a transaction over several databases is split: {group}, found {found}"
        went_on = {name: _commit_one(world, name) for name in found} if go_on else {}
    finally:
        world.close()
    if went_on:
        again = World(root, QuickDisk())
        try:
            for name, (txid, content) in went_on.items():
                examine_database(again, name, Promise(states={txid: content}, durable=txid, last=txid))
        finally:
            again.close()


def examine_database(world: World, name: str, promise: Promise) -> int:
    """Returns the txid at which the database is, after checking that it may be there."""
    allowed = promise.allowed()
    served = world.store.databases.get(name)
    if served is None:
        assert 0 in allowed, f"{name} is gone; allowed: {sorted(allowed)}"
        return 0
    database = served.database
    txid = database.txid
    assert txid in allowed, f"{name} is at {txid}; allowed: {sorted(allowed)}"
    content = served.read(0, 1 << 30)
    assert content == allowed[txid], f"{name} at {txid} has other content"
    examine_state(served, content)
    return txid


def examine_state(served: ServedDatabase, content: bytes) -> None:
    """Checks that size, checksums and log of a database, opened just now, are those of its content."""
    database = served.database
    assert served.size == len(content)
    assert database.exists or not content
    sums = page_checksums(content, database.page_size, 1) if content else []
    assert database.checksum == CHECKSUM_FLAG | database_checksum(sums), f"{database.name}: wrong rolling checksum"
    assert list(database.sums) == sums
    examine_log(database)


def examine_log(database: Database) -> None:
    """Reads all images as a follower would: they verify, and each follows the one before."""
    first = database.log.first_txid()
    assert first <= database.base_txid + 1 or database.txid == database.base_txid, "images after S are missing"
    if not first:
        return
    reader = LogReader(database.directory / "log")
    previous = 0
    txid = first - 1
    try:
        for ref in reader.images(first, database.txid):
            header, _, trailer = decode_image(reader.read(ref, 0, ref.size))
            assert header.min_txid == txid + 1
            assert not previous or header.pre_apply == previous, f"image {header.min_txid} does not follow"
            assert trailer.post_apply == ref.post_apply
            txid, previous = header.max_txid, trailer.post_apply
    finally:
        reader.close()
    assert txid == database.txid, f"the log ends at {txid}, the database is at {database.txid}"
    assert not previous or previous == database.checksum


def _commit_one(world: World, name: str) -> tuple[int, bytes]:
    player = Player(world.store, name, seed=99, create=world.store.database(name) is None)
    player.look()
    if player.wal:
        after = player.change([2])
        player.served.wal.create()
        player.wal_commit(after, sync=True)
    else:
        player.commit(player.change([2]))
    return world.database(name).txid, player.content


# ---- sweeping ----


def crash_everywhere(
    directory: Path,
    scenario: Scenario,
    *,
    seeds_per_call: int = 1,
    go_on_every: int = 5,
    sync_every_commit: bool = False,
) -> int:
    """Runs a scenario once and judges, before each of its disk calls, what a power cut there may leave.

    Returns:
        The number of crashes judged.
    """
    root = directory / "live"
    root.mkdir()
    disk = FaultyDisk(root)
    promises = Promises()
    crash_n = 0

    def crash(label: str) -> None:
        nonlocal crash_n
        if label.startswith(SCRATCH_LABELS):
            return
        call = len(disk.calls)
        for seed in (NOTHING_UNSYNCED, EVERYTHING, *(call * 100 + 2 + i for i in range(seeds_per_call))):
            left = directory / "left"
            disk.leave(seed, left)
            crash_n += 1
            try:
                examine(left, promises, go_on=crash_n % go_on_every == 0)
            except (AssertionError, LiteFSError, OSError) as error:
                raise AssertionError(f"power cut before call {call + 1} ({label}), seed {seed}: {error}") from error
            shutil.rmtree(left)

    world = World(root, disk, promises, sync_every_commit=sync_every_commit)
    disk.before_call = crash
    try:
        scenario(world)
        crash("the end")
        assert not world.refusals, world.refusals
    finally:
        disk.before_call = lambda label: None
        world.close()
    return crash_n


def fail_everywhere(directory: Path, scenario: Scenario, error: int, *, sync_every_commit: bool = False) -> int:
    """Runs a scenario again and again, each time with the next disk call failing, and judges what is left.

    Returns:
        The number of calls that failed, one per run.
    """
    call = 0
    while True:
        call += 1
        root = directory / f"run{call}"
        root.mkdir()
        disk = FaultyDisk(root)
        promises = Promises()
        world = World(root, disk, promises, sync_every_commit=sync_every_commit)
        disk.fail_at, disk.error = len(disk.calls) + call, error
        try:
            with contextlib.suppress(Stopped):
                scenario(world)
        except (AssertionError, LiteFSError, OSError) as problem:
            raise AssertionError(f"call {call} failed ({disk.calls[disk.fail_at - 1 :][:1]}): {problem}") from problem
        finally:
            world.close()
        if len(disk.calls) < disk.fail_at:
            assert not world.refusals, world.refusals
            shutil.rmtree(root)
            return call - 1
        for seed in (NOTHING_UNSYNCED, EVERYTHING if call % 3 == 0 else call + 2):
            left = directory / "left"
            disk.leave(seed, left)
            try:
                examine(left, promises)
            except (AssertionError, LiteFSError, OSError) as problem:
                raise AssertionError(
                    f"call {call} ({disk.calls[disk.fail_at - 1]}) failed, then power cut, seed {seed}: {problem}"
                ) from problem
            shutil.rmtree(left)
        shutil.rmtree(root)
