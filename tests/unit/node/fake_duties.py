"""Nodes whose roles are driven for real, over a fake keeper of the lease and without mounts.

What a node has is a number. A primary adds to it while its deadline has not passed, as the filesystem process would; a
replica has what it was sent.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from litefs.errors import LinkSilentError
from litefs.lease.lease import Holder, Identity
from litefs.node.cluster_id import ClusterId
from litefs.node.role_driver import RoleDriver
from litefs.node.role_duties import Candidacy
from litefs.node.roles import Role
from tests.support.fake_lease import FakeKeeper, FakeLease

GIVE_UP_S = 30.0


class FakeNode:
    """One node: its driver, and the `Duties` of it."""

    def __init__(self, cluster: "FakeCluster", name: str, *, may_lead: bool = True) -> None:
        """Starts nothing."""
        self.cluster = cluster
        self.name = name
        self.may_lead = may_lead
        self.identity = Identity(node_id=ord(name), hostname=name, advertise_url=f"http://{name}:20202")
        self.memory: list[str] = []
        self.has = 0
        self.until = 0.0
        self.following: str | None = None
        self.stuck_on = ""
        self.takes_handoffs = True
        self.has_let_go = False
        self.is_silent = False
        self.is_damaged = False
        self.role_when_open = Role.STARTING
        self.roles: list[Role] = []
        self.log: list[str] = []
        self.directory = cluster.directory / name
        self.directory.mkdir()
        self.drivers: list[RoleDriver] = []
        """Of all its processes."""
        self.driver = self.boot()

    def boot(self) -> RoleDriver:
        """Makes the driver of a new process on the same data."""
        self.driver = RoleDriver(
            FakeLease(self.cluster.keeper, self.identity, self.memory),
            self,
            ClusterId(self.directory),
            Candidacy(identity=self.identity, may_lead=self.may_lead, retry_s=0.01),
            self.roles.append,
        )
        self.drivers.append(self.driver)
        return self.driver

    def start(self) -> "FakeNode":
        """Starts the driver."""
        self.driver.start()
        return self

    @property
    def accepts(self) -> bool:
        """A commit would be accepted now."""
        return time.monotonic() < self.until

    # ---- Duties ----

    def open_commits(self, until: float) -> None:
        assert self.has_let_go, "the appliers still hold the databases"
        if not self.is_silent:
            self.until = until

    def await_open(self) -> None:
        if self.is_silent:
            raise LinkSilentError
        self.role_when_open = self.driver.shown_role

    def close_commits(self) -> None:
        if self.is_silent:
            raise LinkSilentError
        self.until = 0.0
        self.log.append("closed")

    def begin_to_lead(self) -> None:
        self.following = None
        self.has_let_go = True

    def follow(self, holder: Holder | None) -> None:
        self.has_let_go = False
        if holder is not None:
            self.following = holder.hostname
            self.log.append(f"follows {holder.hostname}")

    def stop_receiving(self) -> None:
        self.following = None

    def must_follow(self) -> bool:
        self.is_damaged &= self.following is None
        return self.is_damaged

    def catch_up(self, timeout_s: float) -> str:
        return self.stuck_on

    def freshness(self) -> int:
        return self.has

    def followers(self) -> Mapping[int, int]:
        return {node.identity.node_id: node.has for node in self.cluster.nodes if node.following == self.name}

    def send_handoff(self, node_id: int, lease_id: str, timeout_s: float) -> bool:
        assert not self.accepts, "it hands over and accepts commits"
        for node in self.cluster.nodes:
            if node.identity.node_id == node_id and node.following == self.name:
                node.has = self.has
                if node.takes_handoffs:
                    node.driver.take_handed(lease_id)
                return True
        return False


class FakeCluster:
    """Nodes that share a keeper."""

    def __init__(self, directory: Path, names: str = "", *, ttl_s: float = 10.0) -> None:
        """Makes the nodes; starts none."""
        self.directory = directory
        self.keeper = FakeKeeper(ttl_s=ttl_s)
        self.nodes: list[FakeNode] = []
        for name in names:
            self.add(name)

    def add(self, name: str, *, may_lead: bool = True) -> FakeNode:
        """Adds a node."""
        node = FakeNode(self, name, may_lead=may_lead)
        self.nodes.append(node)
        return node

    def start(self) -> list[FakeNode]:
        """Starts all nodes, the first as primary, and waits until the others follow it."""
        first, *others = self.nodes
        first.start()
        eventually(lambda: first.accepts)
        for node in others:
            # As from the header of the primary's stream.
            ClusterId(node.directory).check(self.keeper.cluster_id)
            node.boot().start()
        eventually(lambda: all(node.following == first.name for node in others))
        return self.nodes

    def primary(self) -> FakeNode | None:
        """Returns the node that accepts commits."""
        accepting = [node for node in self.nodes if node.accepts]
        assert len(accepting) <= 1, [node.name for node in accepting]
        return accepting[0] if accepting else None

    def close(self) -> None:
        """Ends all threads: one that logs something later would do that to whatever test runs then."""
        drivers = [driver for node in self.nodes for driver in node.drivers]
        for driver in drivers:
            driver.abandon()
        self.keeper.close()
        for driver in drivers:
            driver.join()


Make = Callable[..., FakeCluster]
"""The fixture `make`."""


def eventually(condition: object, *, timeout_s: float = GIVE_UP_S) -> None:
    """Waits until a condition, a function, holds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        waiting.wait(0.002)
