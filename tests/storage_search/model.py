"""What a store may show, now and after a power cut, by what it told those who use it.

A database has a history of states. One of them is the last that was answered, one the last that was called durable, and
some may be under way: prepared, and not answered yet. A database that follows a primary shows an older one than the
last, whose image is in its log. After a power cut there is one state, whole, and that is

    one from the last durable on, or one that is under way
    the last or one that is under way, if only the process died
    of the states under way that several databases share: all of them or none
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class State:
    """A database at one position. `content` is empty before the first commit and after a drop."""

    txid: int
    content: bytes
    page_size: int


_NOTHING = State(0, b"", 0)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A state that is under way. `follows`: the state that it needs; `group`: of those that share a decision, or 0."""

    follows: int
    state: State
    group: int


@dataclass(slots=True)
class History:
    """The states of one database by ordinal number. What lies before the durable one is forgotten."""

    states: dict[int, State] = field(default_factory=lambda: {0: _NOTHING})
    last: int = 0
    durable: int = 0
    beginning: int = 0  # of the states that have images one behind the other
    shown: int = 0
    attempts: dict[int, Attempt] = field(default_factory=dict)

    @property
    def now(self) -> State:
        """The state that everybody sees."""
        return self.states[self.shown]

    def accept(self, state: State, *, is_whole: bool = False) -> None:
        """Args: is_whole: it came without an image."""
        self.log(state)
        self.shown = self.last
        if is_whole:
            self.beginning = self.last

    def log(self, state: State) -> None:
        """The image of a state is in the log, and is to be applied."""
        self.last += 1
        self.states[self.last] = state

    def show(self, txid: int) -> None:
        """The images through `txid` were applied."""
        self.shown = next(ordinal for ordinal in range(self.shown, self.last + 1) if self.states[ordinal].txid == txid)
        self._forget()

    def note_durable(self, ordinal: int) -> None:
        """Everything through `ordinal` was called durable."""
        self.durable = max(self.durable, ordinal)
        self._forget()

    def _forget(self) -> None:
        while (oldest := next(iter(self.states))) < min(self.durable, self.shown):
            del self.states[oldest]

    def note_durable_txid(self, txid: int) -> None:
        """The log calls everything through `txid` durable."""
        for ordinal in range(self.last, max(self.durable, self.beginning), -1):
            if self.states[ordinal].txid <= txid:
                self.note_durable(ordinal)
                return

    def adopt(self, state: State) -> None:
        """This is what a start found, and called durable by that."""
        self.accept(state, is_whole=True)
        self.note_durable(self.last)
        self.attempts.clear()


class Model:
    """All databases of a store."""

    def __init__(self) -> None:
        self.histories: dict[str, History] = {}
        self._groups: dict[int, tuple[frozenset[str], bool]] = {}  # members, and whether the decision is durable
        self._number = 0

    def of(self, name: str) -> History:
        return self.histories.setdefault(name, History())

    def begin(self, states: Mapping[str, State], *, durable: bool) -> int:
        """These states are under way; several of them share a decision. Returns the number of the attempt."""
        self._number += 1
        group = self._number if len(states) > 1 else 0
        if group:
            self._groups[group] = frozenset(states), durable
        for name, state in states.items():
            history = self.of(name)
            history.attempts[self._number] = Attempt(history.last, state, group)
        return self._number

    def give_up(self, number: int) -> None:
        """The attempt was refused, or rolled back: it must not be found any more."""
        for history in self.histories.values():
            history.attempts.pop(number, None)
        self._groups.pop(number, None)

    def accept(self, number: int, *, durable: bool, is_whole: bool = False) -> None:
        """The attempt was answered."""
        for history in self.histories.values():
            attempt = history.attempts.pop(number, None)
            if attempt is not None:
                history.accept(attempt.state, is_whole=is_whole)
                if durable:
                    history.note_durable(history.last)
        self._groups.pop(number, None)

    def adopt(self, found: Mapping[str, State]) -> None:
        """This is what a start found: it is all there is from now on."""
        self._groups.clear()
        for name, history in self.histories.items():
            history.adopt(found.get(name, _NOTHING))

    def judge(self, found: Mapping[str, State], *, is_power_cut: bool) -> None:
        """Raises AssertionError where a start found what may not be there."""
        groups: dict[int, list[bool]] = {}
        for name, history in self.histories.items():
            state = found.get(name, _NOTHING)
            matches = self._matches(history, state, is_power_cut=is_power_cut)
            oldest = history.durable if is_power_cut else history.last
            allowed = [history.states[ordinal].txid for ordinal in range(oldest, history.last + 1)]
            under_way = sorted(attempt.state.txid for attempt in history.attempts.values())
            assert matches, f"{name}: found {_words(state)}, allowed {allowed}, under way {under_way}"
            for attempt in history.attempts.values():
                if attempt.group:
                    groups.setdefault(attempt.group, []).append(attempt in matches)
        for group, outcomes in groups.items():
            members, is_durable = self._groups[group]
            if is_durable or not is_power_cut:
                assert len(set(outcomes)) == 1, f"{sorted(members)}: their transaction is split"

    @staticmethod
    def _matches(history: History, found: State, *, is_power_cut: bool) -> list[Attempt | None]:
        oldest = history.durable if is_power_cut else history.last
        matches: list[Attempt | None] = []
        for ordinal in range(oldest, history.last + 1):
            state = history.states[ordinal]
            if (state.txid, state.content) == (found.txid, found.content):
                matches.append(None)
        for attempt in history.attempts.values():
            state = attempt.state
            if attempt.follows >= oldest and (state.txid, state.content) == (found.txid, found.content):
                matches.append(attempt)
        return matches


def _words(state: State) -> str:
    return f"{len(state.content)} bytes at {state.txid}"
