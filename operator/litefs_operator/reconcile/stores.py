"""Pods, Services and disruption budgets, by the cluster that they belong to.

Strategy: the API server filters pods and Services by their labels, so what is not of a cluster is never sent. Budgets
are few, and those of users count: all are watched.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from litefs_operator import names
from litefs_operator.known import ClusterKey
from litefs_operator.kube import KubeApi, object_path
from litefs_operator.metrics import Metrics
from litefs_operator.object_watch import ObjectWatch, Source
from litefs_operator.reconcile.observed import (
    KeptBudget,
    KeptService,
    Member,
    budget_of,
    member_of,
    service_of,
)

Key = TypeVar("Key")
Record = TypeVar("Record")


class Stores:
    """What the API server has of the clusters, watched from construction on. For one event loop."""

    def __init__(
        self,
        kube: KubeApi,
        namespaces: Iterable[str],
        metrics: Metrics,
        changed: Callable[[ClusterKey], None],
        budget_changed: Callable[[str], None],
    ) -> None:
        """Args: namespaces: empty for all; changed: is told the cluster; budget_changed: the namespace."""
        self._members: dict[ClusterKey, dict[str, Member]] = defaultdict(dict)
        self._services: dict[ClusterKey, dict[str, KeptService]] = defaultdict(dict)
        self._budgets: dict[str, dict[str, KeptBudget]] = defaultdict(dict)
        self._changed = changed
        self._budget_changed = budget_changed
        spaces = tuple(namespaces) or ("",)

        def source(what: str, api: str, selector: str) -> Source:
            paths = tuple(object_path(api, what, namespace) for namespace in spaces)
            return Source(what=what, paths=paths, label_selector=selector)

        ours = f"{names.MANAGED_BY}={names.OPERATOR},{names.CLUSTER}"
        pods = ObjectWatch(kube, source("pods", "v1", names.CLUSTER), member_of, self._take_member)
        services = ObjectWatch(kube, source("services", "v1", ours), service_of, self._take_service)
        budgets = ObjectWatch(kube, source("poddisruptionbudgets", "policy/v1", ""), budget_of, self._take_budget)
        self.is_listed: Callable[[], bool] = lambda: pods.is_listed() and services.is_listed() and budgets.is_listed()
        """Whether everything that there was at the start is known."""
        for name, watch in (("pods", pods), ("services", services), ("poddisruptionbudgets", budgets)):
            metrics.watch_age(name, watch)

    def members(self, key: ClusterKey) -> tuple[Member, ...]:
        """Returns a cluster's pods, by name, without those that are over."""
        found = self._members.get(key, {})
        return tuple(found[name] for name in sorted(found) if not found[name].is_over)

    def leases(self, key: ClusterKey, controller: str) -> Mapping[str, str]:
        """Returns where each pod keeps its lease that a new one must agree with, by name.

        Args:
            key: of the new pod's cluster.
            controller: of the new pod. Its other pods count though they are of another cluster: it was renamed.
        """
        members = list(self.members(key))
        if controller:
            others = [other for other in self._members if other[0] == key[0] and other != key]
            members += [member for other in others for member in self.members(other) if member.controller == controller]
        return {member.name: member.lease for member in members}

    def services(self, key: ClusterKey) -> Mapping[str, KeptService]:
        """Returns the Services that were made for a cluster of this name, by name."""
        return dict(self._services.get(key, {}))

    def budgets(self, namespace: str) -> tuple[KeptBudget, ...]:
        """Returns the disruption budgets of a namespace."""
        return tuple(self._budgets.get(namespace, {}).values())

    def _take_member(self, before: Member | None, now: Member | None) -> None:
        if before is not None:
            _drop(self._members, (before.namespace, before.cluster), before.name)
        if now is not None:
            self._members[now.namespace, now.cluster][now.name] = now
        for key in {(member.namespace, member.cluster) for member in (before, now) if member is not None}:
            self._changed(key)

    def _take_service(self, before: KeptService | None, now: KeptService | None) -> None:
        if before is not None:
            _drop(self._services, (before.namespace, before.cluster), before.name)
        if now is not None:
            self._services[now.namespace, now.cluster][now.name] = now
        for key in {(service.namespace, service.cluster) for service in (before, now) if service is not None}:
            self._changed(key)

    def _take_budget(self, before: KeptBudget | None, now: KeptBudget | None) -> None:
        budget = now or before
        assert budget is not None
        if now is None:
            _drop(self._budgets, budget.namespace, budget.name)
        else:
            self._budgets[now.namespace][now.name] = now
        self._budget_changed(budget.namespace)


def _drop(store: dict[Key, dict[str, Record]], key: Key, name: str) -> None:
    store[key].pop(name, None)
    if not store[key]:
        del store[key]
