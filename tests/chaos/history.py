"""What clients of a cluster did and saw, and whether a correct cluster can have answered so.

The clients append rows to one table. Each row names the last row that its transaction saw (`parent`), so the rows of
all histories that ever were form a tree; what every node shows in the end is one path of it.

Replication is asynchronous: a primary that dies takes with it what it had not sent. So rows that were acknowledged may
be missing, but only where the lease changed hands after them. What may never happen:
    1. nodes show different rows in the end, or a row twice, or one that was refused, or one after another parent;
    2. a row acknowledged by the last holder of the lease is missing, or one missing that no change of holder explains;
    3. a node acknowledges a row while another one holds the lease;
    4. a reader sees something else than a committed prefix, or goes back while the holder stays the same.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

NS_PER_S = 1_000_000_000

ROOT = ""
"""The parent of the first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One transaction that appends one row. Times are CLOCK_MONOTONIC in nanoseconds.

    Attributes:
        outcome: "ok", "refused" (an error before COMMIT: it must not be there), or "unknown" (an error of COMMIT).
    """

    node: str
    token: str
    parent: str
    begun_ns: int
    ended_ns: int
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One read transaction: the last row and the number of rows."""

    node: str
    client: str
    begun_ns: int
    ended_ns: int
    head: str
    row_n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """A change of the lease, as seen by somebody that no fault cuts off: seen at `seen_ns`, it was made before.

    `holder` is "" where nobody holds it.
    """

    holder: str
    seen_ns: int


@dataclass(slots=True)
class Verdict:
    """What was found. `lost` rows were acknowledged and are on no node, for reasons that asynchrony allows."""

    violations: list[str] = field(default_factory=list)
    acknowledged_n: int = 0
    lost: list[str] = field(default_factory=list)
    read_n: int = 0


class History:
    """Everything that happened in one run."""

    def __init__(
        self,
        writes: Iterable[Write],
        reads: Iterable[Read],
        tenures: Iterable[Tenure],
        final: Mapping[str, Sequence[tuple[str, str]]],
        *,
        slack_ns: int = NS_PER_S // 2,
    ) -> None:
        """Args: final: by node, (token, parent) of all rows in their order; slack_ns: how late `tenures` may be."""
        self._writes = {write.token: write for write in writes}
        self._reads = sorted(reads, key=lambda read: read.begun_ns)
        self._tenures = sorted(tenures, key=lambda tenure: tenure.seen_ns)
        self._changed_ns = [tenure.seen_ns for tenure in self._tenures]
        self._final = final
        self._slack_ns = slack_ns
        self._chain = [token for token, _ in next(iter(final.values()), ())]
        self._place = {token: place for place, token in enumerate(self._chain)}

    def check(self) -> Verdict:
        """Returns everything that cannot be."""
        verdict = Verdict()
        verdict.violations += self._check_final()
        acknowledged = [write for write in self._writes.values() if write.outcome == "ok"]
        verdict.acknowledged_n = len(acknowledged)
        for write in acknowledged:
            holder = self._sole_other_holder(write)
            if holder:
                verdict.violations.append(f"{write.token} was acknowledged by {write.node} while {holder} was primary")
            if write.token in self._place:
                continue
            if self._changes_after(write.begun_ns):
                verdict.lost.append(write.token)
            else:
                verdict.violations.append(f"{write.token} was acknowledged by the last primary and is missing")
        verdict.read_n = len(self._reads)
        verdict.violations += self._check_reads()
        return verdict

    def _check_final(self) -> list[str]:
        found = []
        for node, rows in self._final.items():
            tokens = [token for token, _ in rows]
            if tokens != self._chain:
                found.append(f"{node} shows {len(tokens)} rows, another node {len(self._chain)}, or other ones")
            if len(set(tokens)) != len(tokens):
                found.append(f"{node} shows a row twice")
            before = ROOT
            for token, parent in rows:
                write = self._writes.get(token)
                if write is None:
                    found.append(f"{node} shows {token}, which nobody wrote")
                elif write.outcome == "refused":
                    found.append(f"{node} shows {token}, which was refused")
                if parent != before:
                    found.append(f"{node} shows {token} behind {before or 'nothing'}; it was written behind {parent}")
                before = token
        return found

    def _sole_other_holder(self, write: Write) -> str:
        """Returns who held the lease, to the exclusion of the writer's node, all the time that a write took."""
        index = bisect_right(self._changed_ns, write.begun_ns) - 1
        if index < 0:
            return ""
        tenure = self._tenures[index]
        ends_ns = self._changed_ns[index + 1] if index + 1 < len(self._changed_ns) else None
        # The next change was made a little before it was seen, perhaps within the write.
        if ends_ns is not None and write.ended_ns > ends_ns - self._slack_ns:
            return ""
        return tenure.holder if tenure.holder not in ("", write.node) else ""

    def _changes_after(self, moment_ns: int) -> int:
        return len(self._changed_ns) - bisect_right(self._changed_ns, moment_ns - self._slack_ns)

    def _check_reads(self) -> list[str]:
        found = []
        depths = self._depths()
        latest: dict[str, Read] = {}
        for read in self._reads:
            write = self._writes.get(read.head)
            if read.head != ROOT and write is None:
                found.append(f"{read.client} saw {read.head}, which nobody wrote")
                continue
            if write is not None and write.outcome == "refused":
                found.append(f"{read.client} saw {read.head}, which was refused")
            if read.row_n != depths[read.head]:
                found.append(f"{read.client} saw {read.row_n} rows to {read.head}, which is number {depths[read.head]}")
            before = latest.get(read.client)
            latest[read.client] = read
            if before is None or before.head == ROOT or not self._goes_back(before, read):
                continue
            seen = self._writes[before.head]
            if self._changes_after(seen.begun_ns) == self._changes_after(read.ended_ns):
                found.append(f"{read.client} saw {before.head} and then {read.head}, which is older")
        return found

    def _goes_back(self, before: Read, after: Read) -> bool:
        """Both are of the history that stands, and the second is the older one."""
        if before.head not in self._place or (after.head != ROOT and after.head not in self._place):
            return False
        return self._place.get(after.head, -1) < self._place[before.head]

    def _depths(self) -> dict[str, int]:
        """Returns the number of rows up to each row that was ever written."""
        depths = {ROOT: 0}
        for token in self._writes:
            path, ancestor = [], token
            while ancestor not in depths:
                path.append(ancestor)
                write = self._writes.get(ancestor)
                ancestor = write.parent if write is not None else ROOT
            first = depths[ancestor] + 1
            depths |= {passed: first + index for index, passed in enumerate(reversed(path))}
        return depths
