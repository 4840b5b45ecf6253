"""Draws half-steps and power cuts by a seed, and judges.

A search is a chain of lives. Within one, tasks are begun and taken on in random order. Before any call of the disk, and
behind any half-step, the power may be cut: what would be left is looked at and thrown away. A life ends with a power
cut or with the death of the process, and the next one starts from what it left.
"""

import itertools
import random
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from litefs.errors import DiskLostError
from litefs.storage.steps import Steps
from tests.storage_search.life import NAMES, Life
from tests.storage_search.limits import small_limits
from tests.storage_search.model import Model, State
from tests.storage_search.source import FOLLOWED, Source
from tests.storage_search.tasks import Task
from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk, QuickDisk
from tests.support.storage_world import SCRATCH_LABELS, World, examine_state

TASKS_MAX = 6
PACES = (1.0, 1.0, 1.0, 0.03)
"""Now and then a thread stands while everybody else goes on: what takes long is what others come in between."""

WORDS_MAX = 60
"""So many of the last half-steps are told."""


STRETCH_STEPS = 200

WORK = (
    (30, "commit", "writer"),
    (4, "abandon", "writer"),
    (3, "change_mode", "writer"),
    (3, "checkpoint_wal", "writer"),
    (2, "vacuum", "writer"),
    (2, "drop", "writer"),
    (2, "load", "load"),
    (2, "edit", "load"),
    (3, "import_database", "import"),
    (12, "receive", "receive"),
    (8, "snapshot", ""),
    (6, "sync", ""),
    (10, "settle", "settle"),
    (6, "tidy", "tidy"),
    (6, "prepare_segment", "segment"),
)
"""Weight, method of `Life`, and who may do it at the same time: `Search._begin_task`."""


class Finding(AssertionError):
    """The storage layer broke a promise; the text says which and what came before."""


class DyingDisk(FaultyDisk):
    """A disk that takes nothing more from a process that is dead.

    Attributes:
        left_out: label of syncs that it does not carry out, as if the code did not ask for them.
    """

    is_dead = False
    left_out = ""

    def sync(self, label: str, fd: int) -> None:
        if label != self.left_out:
            super().sync(label, fd)

    def sync_directory(self, label: str, path: Path | str) -> None:
        if label != self.left_out:
            super().sync_directory(label, path)

    def _enter(self, label: str, *, changes: bool = True) -> None:
        if self.is_dead:
            raise OSError(f"{label}: the process is dead")
        super()._enter(label, changes=changes)


class Search:
    """One seed.

    Attributes:
        words: the last half-steps.
        step_n, cut_n, life_n: half-steps done, power cuts judged, starts.
        committed_n, refused_n: transactions of lives that are over.
    """

    def __init__(self, seed: int, directory: Path, *, left_out: str = "") -> None:
        """Args: directory: empty; left_out: as `DyingDisk.left_out`, to see that the search notices."""
        self._draw = random.Random(seed)
        self._directory = directory
        self._model = Model()
        self._life_numbers = itertools.count()
        self.words: list[str] = []
        self._tasks: list[Task] = []
        self._kinds: set[str] = set()
        self.step_n = self.cut_n = self.life_n = self.committed_n = self.refused_n = 0
        self._left_out = left_out
        self._failure: Exception | None = None
        self._root = directory / "live"
        for path in (self._root, directory / "source"):
            path.mkdir()
        self._disk = self._new_disk()

    def run(self, step_n: int) -> None:
        """Does so many half-steps.

        Raises:
            Finding: a promise was broken.
        """
        with small_limits(random.Random(self._draw.getrandbits(64))):
            try:
                self._live(step_n)
            except Exception as error:  # storage may stumble over anything
                raise Finding(self._tell(error)) from error
            finally:
                self._abandon()
                self._source.close()

    def _live(self, step_n: int) -> None:
        self._source = Source(self._directory / "source", self._draw)
        self._begin_life()
        while self.step_n < step_n:
            if self.step_n % STRETCH_STEPS == 0:
                self._begin_stretch()
            self.step_n += 1
            self._step()
        self._end_life()

    def _tell(self, error: BaseException) -> str:
        return "\n".join([f"{type(error).__name__}: {error}", "half-steps before it, the last one last:", *self.words])

    def _say(self, words: str) -> None:
        self.words.append(f"    {self.step_n:6d} {words}")
        del self.words[:-WORDS_MAX]

    # ---- lives ----

    def _new_disk(self) -> DyingDisk:
        disk = DyingDisk(self._root)
        disk.before_call = self._before_call
        disk.left_out = self._left_out
        return disk

    def _begin_life(self) -> None:
        self.life_n += 1
        self._life = Life(self._root, self._disk, self._model, self._draw, self._source)
        self._model.adopt(self._life.found())
        self._life.check()

    def _end_life(self) -> None:
        """The process dies, and the power may fail, too."""
        is_power_cut = self._draw.random() < 0.6
        seed = self._draw.choice([NOTHING_UNSYNCED, self._draw.getrandbits(32) + 2]) if is_power_cut else EVERYTHING
        self._say(f"the life ends, {'power cut ' + str(seed) if is_power_cut else 'death'}")
        found = self._judge(seed)
        left = self._directory / f"life{next(self._life_numbers)}"
        if is_power_cut:
            self._disk.leave(seed, left)
            self._model.adopt(found)  # so a cut during the start is held against this
        self._abandon()
        if is_power_cut:
            shutil.rmtree(self._root)
            self._root = left
            self._disk = self._new_disk()
        else:
            self._disk.is_dead = False
        self._begin_life()

    def _abandon(self) -> None:
        """Whatever was under way ends without another word to the disk."""
        self._disk.is_dead = True
        if hasattr(self, "_life"):
            self._life.model = Model()  # what the tasks meet now was never told to anybody
        for task in self._tasks:
            with suppress(Exception):
                task.steps.close()
        self._tasks.clear()
        self._kinds.clear()
        if hasattr(self, "_life"):
            self.committed_n += self._life.committed_n
            self.refused_n += self._life.refused_n
            self._life.world.close()
            del self._life

    # ---- half-steps ----

    def _step(self) -> None:
        draw, life = self._draw, self._life
        if draw.random() < 0.003:
            self._end_life()
            return
        if draw.random() < 0.02:
            gate = life.world.gate
            gate.primary_until = 0.0 if gate.is_open and draw.random() < 0.1 else float("inf")
        if not self._tasks or (len(self._tasks) < TASKS_MAX and draw.random() < 0.25):
            self._begin_task()
        if self._tasks:
            (task,) = draw.choices(self._tasks, [task.pace for task in self._tasks])
            task.pace = draw.choice(PACES)
            self._say(task.words)
            try:
                goes_on = task.half_step()
            except DiskLostError as error:
                raise AssertionError(f"{task.words}: the disk was lost, and it works: {error}") from error
            if self._failure is not None:
                raise self._failure
            if not goes_on:
                self._tasks.remove(task)
            life.check(task.names)
        if draw.random() < 0.02:
            self._cut()

    def _begin_stretch(self) -> None:
        """Some kinds of work rest for a while, and one database gets most of what is left: there it meets."""
        draw = self._draw
        self._resting = {method for _, method, _ in WORK[1:] if draw.random() < 0.4}
        self._favourite = draw.choice((*NAMES, FOLLOWED))
        self._share_together = draw.choice([0.05, 0.1, 0.4])

    def _begin_task(self) -> None:
        life, draw = self._life, self._draw
        if draw.random() < self._share_together:
            self._begin_together()
            return
        weights = [0 if method in self._resting else weight for weight, method, _ in WORK]
        ((_, method, kind),) = draw.choices(WORK, weights)
        name = self._favourite if draw.random() < 0.6 else draw.choice((*NAMES, FOLLOWED))
        if kind in ("writer", "load", "import") and name == FOLLOWED:
            method, kind = "apply", "writer"
        elif method == "receive":
            name = FOLLOWED
        if kind in ("writer", "load"):
            held, key = life.busy if kind == "writer" else life.loading, name
            is_free = life.is_free(name)
        else:  # one at a time: of the whole process, or of each database
            held, key = self._kinds, kind if kind in ("settle", "tidy") else f"{method} {name}"
            is_free = key not in held
        if is_free:
            begin: Callable[[str], Steps[None]] = getattr(life, method)
            self._take_up(method, (name,), begin(name), held, [key])

    def _begin_together(self) -> None:
        life = self._life
        free = [name for name in NAMES if life.is_free(name) and not life.players[name].wal]
        names = self._draw.sample(free, min(len(free), self._draw.randint(2, 3)))
        if len(names) >= 2:
            self._take_up("commit", tuple(names), life.commit_together(names), life.busy, names)

    def _take_up(
        self, what: str, names: tuple[str, ...], steps: Steps[None], held: set[str], keys: Iterable[str]
    ) -> None:
        """Begins a task about these databases that holds some keys until it ends."""
        held.update(keys)
        self._tasks.append(Task(f"{what} {' '.join(names)}", names, steps, lambda: held.difference_update(keys)))

    # ---- power cuts ----

    def _before_call(self, label: str) -> None:
        if label.startswith(SCRATCH_LABELS):
            return
        # Before a sync there is most to lose.
        if self._draw.random() < (0.06 if "sync" in label or "directory" in label else 0.01):
            self._say(f"    before {label}")
            self._cut()

    def _cut(self) -> None:
        seed = self._draw.choice([NOTHING_UNSYNCED, NOTHING_UNSYNCED, EVERYTHING, self._draw.getrandbits(32) + 2])
        self._say(f"    power cut {seed}")
        self._judge(seed)

    def _judge(self, seed: int) -> dict[str, State]:
        """Looks at what a power cut now would leave. Returns what a start makes of it."""
        try:
            return self._judged(seed)
        except Exception as error:
            self._failure = error  # storage, in whose call this may be, might take it for a failure of its own
            raise

    def _judged(self, seed: int) -> dict[str, State]:
        self.cut_n += 1
        left = self._directory / "left"
        self._disk.leave(seed, left)
        world = World(left, QuickDisk())
        found: dict[str, State] = {}
        try:
            for name, served in world.store.databases.items():
                content = served.read(0, 1 << 30)
                examine_state(served, content)
                found[name] = State(served.database.txid, content, served.database.page_size)
        finally:
            world.close()
        shutil.rmtree(left)
        self._model.judge(found, is_power_cut=seed != EVERYTHING)
        return found
