"""What the HTTP API needs of a node. `litefs.node.node.Node` provides it; tests provide a smaller one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from litefs.link.messages import Answer, AskCounters, CloseSnapshot, Committed, DatabaseInfo, KeepLogs, OpenSnapshot
from litefs.node.lease_watch import RoleCounters
from litefs.node.node_status import NodeStatus


class NodeView(Protocol):
    """The node as the HTTP API sees it. Every method may be called from any thread."""

    @property
    def data_dir(self) -> Path:
        """The data directory, whose logs are read and never written here."""

    def status(self) -> NodeStatus:
        """Returns where the node stands now; cheap, without waiting."""

    def databases(self) -> Mapping[str, DatabaseInfo]:
        """Returns every database by name, as last heard of."""

    def on_committed(self, callback: Callable[[Committed], None]) -> None:
        """Has `callback` called after each change of a position, on a thread of the node's."""

    def set_listening(self, is_listening: bool) -> None:
        """Says, without waiting, whether somebody waits for commits; else callbacks come some milliseconds late."""

    def counters(self) -> RoleCounters:
        """Returns what happened to role and lease so far."""

    def call(self, message: OpenSnapshot | AskCounters) -> Answer:
        """Asks the filesystem process and waits for its answer.

        Raises:
            LinkClosedError: the other process is gone.
            LinkSilentError: it hangs.
        """

    def send(self, message: CloseSnapshot | KeepLogs) -> None:
        """Tells the filesystem process something that has no answer, without waiting, even if that hangs."""

    def promote(self) -> None:
        """Gets the lease from the primary; nothing on the primary itself. Takes up to some seconds.

        Raises:
            NotCandidateError: this node can never be primary.
            HandoffRefusedError: the primary keeps the lease, or there is none.
        """

    def handoff(self, node_id: int) -> None:
        """Hands the lease of this primary to a replica. Takes up to some seconds.

        Raises:
            HandoffRefusedError: this node keeps the lease, or has none.
        """

    def handoff_to_freshest(self, timeout_s: float) -> int | None:
        """Hands the lease of this primary to the candidate that has most. Takes up to some seconds.

        Returns:
            Its id; None if this node is not the primary, or nobody can take the lease.

        Raises:
            HandoffRefusedError: the candidate did not take it.
        """

    def leave(self) -> None:
        """Makes this node a candidate no more, until the process ends."""

    def open_replacement(self, name: str, page_size: int, page_n: int) -> "Replacement":
        """Begins to replace a database of this primary as a whole.

        Raises:
            NotPrimaryError: this node may not change databases.
        """


class Replacement(Protocol):
    """A whole new state of one database, written in order and then flipped in. Used from one thread at a time."""

    def write_pages(self, first_pgno: int, data: bytes | memoryview) -> None:
        """Takes the next run of whole pages."""

    def commit(self) -> None:
        """Syncs the pages and flips them in as the next transaction; returns when readers see them.

        Raises:
            NotPrimaryError: this node may not change databases any more; nothing was replaced.
        """

    def abort(self) -> None:
        """Discards what was written; the database stays as it is. Nothing after `commit`."""
