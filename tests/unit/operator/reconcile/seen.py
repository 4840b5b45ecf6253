"""Builds observations: a cluster of three that is well, and what a test changes of it."""

from collections.abc import Iterable
from typing import Any

from litefs_operator.builders.services import disruption_budget, services
from litefs_operator.consul import Holder
from litefs_operator.crd import ClusterSpec
from litefs_operator.node_client import Answer, Probe, Silence
from litefs_operator.reconcile.observed import (
    KeptBudget,
    KeptService,
    LeaseState,
    LeaseView,
    Member,
    Memory,
    Observation,
)
from litefs_operator.schema import parse

Manifest = dict[str, Any]
NOW = 1000.0
REVISION = "0123456789abcdef"
CLUSTER: Manifest = {
    "apiVersion": "litefs.io/v1alpha1",
    "kind": "LiteFSCluster",
    "metadata": {"name": "blog", "namespace": "web", "uid": "u-1", "generation": 3},
    "spec": {},
    "status": {},
}


def member(index: int, **changes: Any) -> Member:
    fields: dict[str, Any] = {
        "namespace": "web",
        "name": f"blog-{index}",
        "uid": f"pod-{index}",
        "cluster": "blog",
        "ip": f"10.0.0.{index}",
        "port": 20202,
        "node_name": "n1",
        "node": f"ID{index}",
        "role": "primary" if index == 0 else "replica",
        "is_ready": True,
        "is_ending": False,
        "is_over": False,
        "is_job": False,
        "controller": "s-1",
        "claim": f"data-{index}",
        "labels": {"app": "blog"},
        "revision": REVISION,
        "lease": "http://consul:8500, key litefs/web/blog",
    }
    return Member(**{**fields, **changes})


def answer(index: int, **changes: Any) -> Answer:
    fields: dict[str, Any] = {
        "node_id": f"ID{index}",
        "role": "primary" if index == 0 else "replica",
        "is_ready": True,
        "obstacle": "",
        "lag_ms": None if index == 0 else 250,
        "lease_remaining_s": 8.0 if index == 0 else 0.0,
        "positions": {"app.db": "0000000000000005/8000000000000001"},
    }
    return Answer(**{**fields, **changes})


def probe(index: int, *, at: float = NOW, **changes: Any) -> Probe:
    return Probe(at=at, answer=answer(index, **changes), answered_at=1.0)


def silence(why: Silence = Silence.UNREACHABLE) -> Probe:
    return Probe(at=NOW, answer=None, silence=why, message="refused", answered_at=1.0)


def held_by(index: int, ip: str = "") -> LeaseView:
    url = f"http://{ip or f'10.0.0.{index}'}:20202"
    return LeaseView(state=LeaseState.HELD, holder=Holder(hostname=f"blog-{index}", advertise_url=url))


def kept_services(node: str | None = "ID0", spec: Manifest | None = None, owner: str = "u-1") -> dict[str, KeptService]:
    wanted = services(CLUSTER, parse(ClusterSpec, spec or {}), primary_node=node)
    return {
        entry["metadata"]["name"]: KeptService(
            namespace="web", name=entry["metadata"]["name"], cluster="blog", owner=owner, spec=entry["spec"]
        )
        for entry in wanted
    }


def kept_budget(member_n: int = 3) -> KeptBudget:
    manifest = disruption_budget(CLUSTER, member_n=member_n)
    assert manifest is not None
    return KeptBudget(namespace="web", name="blog", owner="u-1", is_made_here=True, spec=manifest["spec"])


def seen(
    *,
    members: Iterable[Member] | None = None,
    probes: dict[int, Probe] | None = None,
    lease: LeaseView | None = None,
    spec: Manifest | None = None,
    **changes: Any,
) -> Observation:
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "spec": parse(ClusterSpec, spec or {}),
        "members": tuple(members if members is not None else map(member, range(3))),
        "probes": {
            f"pod-{index}": entry for index, entry in ({i: probe(i) for i in range(3)} | (probes or {})).items()
        },
        "revision": REVISION,
        "lease": lease or held_by(0),
        "services": kept_services(),
        "budgets": (kept_budget(),),
        "memory": Memory(primary_node="ID0", member_n=3),
        "now": NOW,
        "timestamp": "2026-11-21T09:00:00Z",
    }
    return Observation(**{**fields, **changes})
