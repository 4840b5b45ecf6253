"""Where the contract of a lease is tried: the fake on virtual time, and a real Consul."""

import json
import time
from pathlib import Path
from typing import Protocol

from litefs.lease.consul_client import ConsulAddress
from litefs.lease.consul_lease import ConsulLease, ConsulTerms
from litefs.lease.lease import Holder, Identity, Lease
from tests.support.consul import ConsulAgent
from tests.support.fake_lease import FakeKeeper, FakeLease, VirtualClock


def identity_of(name: str) -> Identity:
    return Identity(node_id=ord(name), hostname=name, advertise_url=f"http://{name}:20202")


class World(Protocol):
    """A keeper, the nodes that ask it, and what an operator or an accident can do."""

    def node(self, name: str) -> Lease:
        """Returns the lease of a new process of a node."""

    def now(self) -> float:
        """Returns monotonic seconds."""

    def pass_time(self, seconds: float) -> None:
        """Lets time pass."""

    def cut(self) -> None:
        """Lets no request be answered any more."""

    def mend(self) -> None:
        """Lets requests be answered again."""

    def delete_key(self) -> None:
        """Deletes the key of the lease, as an operator may."""

    def intrude(self) -> None:
        """Has somebody who is no node hold the lease."""


class FakeWorld:
    def __init__(self, ttl_s: float) -> None:
        self.clock = VirtualClock()
        self.keeper = FakeKeeper(clock=self.clock, ttl_s=ttl_s)
        self._memories: dict[str, list[str]] = {}

    def node(self, name: str) -> Lease:
        return FakeLease(self.keeper, identity_of(name), self._memories.setdefault(name, []))

    def now(self) -> float:
        return self.clock()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def cut(self) -> None:
        self.keeper.is_reachable = False

    def mend(self) -> None:
        self.keeper.is_reachable = True

    def delete_key(self) -> None:
        self.keeper.give(None)

    def intrude(self) -> None:
        self.keeper.give(Holder(hostname="", advertise_url="", term="stranger"))


class ConsulWorld:
    def __init__(self, agent: ConsulAgent, root: Path, key: str, ttl_s: float, prefix: str = "") -> None:
        self._agent = agent
        self._root = root
        self._key = f"{prefix}/{key}".lstrip("/")
        self._terms = ConsulTerms(
            address=ConsulAddress.parse(f"{agent.url}/{prefix}", {}), key=key, ttl_s=ttl_s, lock_delay_s=0.001
        )

    def node(self, name: str) -> Lease:
        return ConsulLease(self._terms, identity_of(name), self._root / f"session-{name}")

    def now(self) -> float:
        return time.monotonic()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def cut(self) -> None:
        self._agent.freeze()

    def mend(self) -> None:
        self._agent.thaw()

    def delete_key(self) -> None:
        self._agent.request("DELETE", f"/v1/kv/{self._key}")

    def intrude(self) -> None:
        body = json.dumps({"Name": "stranger", "Behavior": "delete", "LockDelay": "1ms"}).encode()
        session = json.loads(self._agent.request("PUT", "/v1/session/create", body))["ID"]
        self.delete_key()
        assert self._agent.request("PUT", f"/v1/kv/{self._key}?acquire={session}", b"not json").strip() == b"true"
