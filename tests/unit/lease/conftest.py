import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul import ConsulAgent
from tests.unit.lease.worlds import ConsulWorld, FakeWorld, World

LONG_TTL_S = 30.0
SHORT_TTL_S = 1.0
"""Consul ends a session after twice that."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A real Consul that tests share, with a key each."""
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"))
    agent.start()
    yield agent
    agent.stop()


KEEPERS = ["fake", "consul", "consul with a prefix"]


@pytest.fixture(params=KEEPERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each keeper in turn, with leases that outlast any test."""
    yield from _opened(request, tmp_path, LONG_TTL_S)


@pytest.fixture(params=KEEPERS[:2])
def expiring_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each keeper in turn, with leases that run out soon."""
    yield from _opened(request, tmp_path, SHORT_TTL_S)


def _opened(request: pytest.FixtureRequest, tmp_path: Path, ttl_s: float) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld(ttl_s)
        return
    agent: ConsulAgent = request.getfixturevalue("agent")
    prefix = "some/prefix" if request.param.endswith("prefix") else ""
    yield ConsulWorld(agent, tmp_path, f"lease-{next(_numbers)}", ttl_s, prefix)
    agent.thaw()
