"""What is measured: plain ext4, this checkout's LiteFS, and another LiteFS binary beside them.

Strategy: a target is made anew for each workload, in an empty directory, and lives through all its rounds. The
others are at rest meanwhile: one target is driven at a time.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.litefs_node import LitefsNode, own_command

AGAINST_VARIABLE = "AGAINST"


@dataclass(slots=True, kw_only=True)
class Target:
    """One column of the table.

    Attributes:
        name: of the column: "bare", "litefs" or "other".
        root: an empty directory on the machine's own file system, for nodes made by a workload.
        command: starts a node with `mount -config FILE`; empty for plain ext4.
        primary: where applications write; None for plain ext4.
        replica: follows `primary`; None where the workload asked for none.
    """

    name: str
    root: Path
    command: list[str]
    primary: LitefsNode | None = None
    replica: LitefsNode | None = None

    @property
    def directory(self) -> Path:
        """Where applications of the primary open databases."""
        return self.primary.mount_dir if self.primary else self.root

    @property
    def replica_directory(self) -> Path:
        """Where applications of the replica open databases; on plain ext4 it is the primary's directory."""
        return self.replica.mount_dir if self.replica else self.directory

    def free(self) -> None:
        """Aborts the mounts, so that a client that hangs in one can be killed."""
        for node in (self.primary, self.replica):
            if node is not None:
                node.free()

    def stop(self) -> None:
        """Stops the nodes."""
        for node in (self.replica, self.primary):
            if node is not None:
                node.stop()


def commands() -> dict[str, list[str]]:
    """Returns the columns of this run: name to the command that starts a node."""
    columns = {"bare": [], "litefs": own_command()}
    against = os.environ.get(AGAINST_VARIABLE, "")
    if against:
        columns["other"] = [against]
    return columns


@contextmanager
def running(name: str, command: list[str], *, replica: bool, environment: dict[str, str]) -> Iterator[Target]:
    """Makes a target, with its nodes running, and takes it down again.

    Args:
        replica: start a second node that follows the first.
        environment: of the nodes.
    """
    with tempfile.TemporaryDirectory(prefix=f"litefs-bench-{name}-", ignore_cleanup_errors=True) as directory:
        target = Target(name=name, root=Path(directory).resolve(), command=command)
        try:
            if command:
                target.primary = LitefsNode(target.root / "primary", command=command)
                target.primary.environment = environment
                target.primary.start()
            if command and replica and target.primary is not None:
                target.replica = LitefsNode(target.root / "replica", command=command, primary_port=target.primary.port)
                target.replica.environment = environment
                target.replica.start()
            yield target
        finally:
            target.stop()
