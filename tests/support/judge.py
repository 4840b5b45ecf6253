"""Brings a scenario, the oracle and the verdict together: what a test of the mount calls."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.support.fuse_mounts import Watchdog
from tests.support.scenario import BareDirectory, Place, Scenario, Session
from tests.support.verdict import Finding, check_database, check_replica, probe

SCENARIO_TIMEOUT_S = 120.0
"""A scenario takes about a second. When this has passed the mount is aborted and the test fails."""


class Node(Place, Protocol):
    """A node that tests may restart: `FilesystemNode` and `LitefsNode` both are."""

    @property
    def is_alive(self) -> bool:
        """Whether the node runs and its mount is there."""

    def start(self) -> None:
        """Starts the node and returns when its mount is there."""

    def stop(self) -> None:
        """Stops the node, whatever state it is in."""

    def kill(self) -> None:
        """Ends the node with SIGKILL and detaches the dead mount."""

    def restart(self) -> None:
        """Stops in good order and starts again on the same data directory."""

    def log_text(self) -> str:
        """Returns all log lines so far."""


@dataclass(slots=True, kw_only=True)
class Judge:
    """Runs scenarios on ext4 and on one node's mount.

    Attributes:
        node: the node under test.
        bare_dir: an empty directory on the machine's own file system.
        stem: begins the names of this test's files on the shared mount.
        replicas: nodes that follow `node`.
    """

    node: Node
    bare_dir: Path
    stem: str
    replicas: list[Place] = field(default_factory=list)

    def compare(self, scenario: Scenario, *, large: bool = False) -> dict[str, Finding]:
        """Runs a scenario in both places and judges what is left.

        Returns:
            For each database of the scenario, by its name there, what was found on the mount.
        """
        bare = self.play(scenario, BareDirectory(self.bare_dir))
        mounted = self.play(scenario, self.node)
        assert mounted.transcript == bare.transcript, _difference(bare.transcript, mounted.transcript)
        return self.check(mounted, oracle=bare, large=large)

    def play(self, scenario: Scenario, place: Place) -> Session:
        """Runs a scenario in one place, under the watchdog of the mount; its processes are gone afterwards."""
        session = Session(place, self.stem)
        watchdog = Watchdog(self.node.mount_dir, SCENARIO_TIMEOUT_S)
        try:
            scenario(session)
        finally:
            session.close()
            watchdog.call_off()
        assert not watchdog.fired, f"the scenario took more than {SCENARIO_TIMEOUT_S:.0f} s: the mount was aborted"
        return session

    def check(self, mounted: Session, *, oracle: Session | None = None, large: bool = False) -> dict[str, Finding]:
        """Judges every database of a finished session on the mount, against the oracle's if there is one."""
        findings = {}
        for name in mounted.databases:
            finding = check_database(self.node, mounted.path(name), large=large)
            if oracle is not None:
                expected = probe(oracle.place, oracle.path(name), large=large)
                assert finding.page_size == expected.page_size
                assert finding.page_n == expected.page_n
                assert finding.journal_mode == expected.journal_mode
                assert finding.content == expected.content, f"{name}: rows differ from those on ext4"
            for replica in self.replicas:
                check_replica(replica, replica.mount_dir / mounted.path(name).name, finding, large=large)
            findings[name] = finding
        return findings

    def check_after_restart(self, findings: dict[str, Finding]) -> None:
        """Restarts the node and fails unless each database is where it was."""
        self.node.restart()
        for name, before in findings.items():
            after = check_database(self.node, self.node.mount_dir / f"{self.stem}-{name}")
            assert (after.position, after.sha256) == (before.position, before.sha256)


def _difference(bare: list[str], mounted: list[str]) -> str:
    for number, (expected, found) in enumerate(zip(bare, mounted, strict=False)):
        if expected != found:
            return f"step {number} differs\n  ext4:  {expected}\n  mount: {found}"
    return f"{len(bare)} steps on ext4, {len(mounted)} on the mount"
