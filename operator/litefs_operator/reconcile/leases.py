"""Who holds the lease of which cluster: the watches of all Consuls that the clusters name.

Strategy: the operator has a token and a CA for the Consul that it was installed with, and for no other. A cluster whose
own Consul needs either has a hidden lease: its nodes tell who is primary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litefs_operator.consul import ConsulAddress, Holder
from litefs_operator.crd import ClusterSpec, LeaseType
from litefs_operator.errors import ConsulError
from litefs_operator.known import ClusterKey
from litefs_operator.lease_watch import COMMON_PREFIX, ConsulState, ConsulView, LeaseWatch
from litefs_operator.metrics import Metrics
from litefs_operator.reconcile.observed import LeaseState, LeaseView


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledConsul:
    """The Consul of the installation; url is "" if there is none."""

    url: str
    token: str
    ca: str


_Source = tuple[ConsulAddress, str]
"""A Consul, and the prefix below which it is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a cluster's lease is kept."""

    address: ConsulAddress
    prefix: str
    key: str


class Leases:
    """The leases of the clusters that were asked for. For one event loop."""

    def __init__(self, installed: InstalledConsul, metrics: Metrics, changed: Callable[[ClusterKey], None]) -> None:
        """Args: changed: is told whose lease is to be looked at again."""
        self._installed = installed
        self._metrics = metrics
        self._changed = changed
        self._places: dict[ClusterKey, _Place] = {}
        self._watches: dict[_Source, LeaseWatch] = {}

    def view(self, key: ClusterKey, spec: ClusterSpec) -> LeaseView:
        """Returns what is known of a cluster's lease, and sees to it that its changes are told."""
        if spec.lease.type is LeaseType.STATIC:
            return LeaseView(state=LeaseState.STATIC)
        consul = spec.lease.consul
        url = consul.url or self._installed.url
        if not url:
            message = "there is no Consul: set spec.lease.consul.url"
            return LeaseView(state=LeaseState.UNREACHABLE, message=message)
        is_installed = url == self._installed.url
        if not is_installed and (consul.token_secret_ref is not None or consul.ca_secret_ref is not None):
            message = "its Consul needs a token or a CA that the operator has not"
            return LeaseView(state=LeaseState.HIDDEN, message=message)
        try:
            address = ConsulAddress.parse(
                url,
                token=self._installed.token if is_installed else "",
                ca=self._installed.ca if is_installed else "",
            )
        except ConsulError as error:
            return LeaseView(state=LeaseState.UNREACHABLE, message=str(error))
        name = (consul.key or "").strip("/") or f"{COMMON_PREFIX}{key[0]}/{key[1]}"
        full = address.key(name)
        place = _Place(
            address=address,
            prefix=full[: -len(name)] + COMMON_PREFIX if name.startswith(COMMON_PREFIX) else full,
            key=full,
        )
        if self._places.get(key) != place:
            self._places[key] = place
            self._stop_unwanted()
        return _view_of(self._watch(place).view, place.key)

    def forget(self, key: ClusterKey) -> None:
        """A cluster is gone."""
        self._places.pop(key, None)
        self._stop_unwanted()

    def _stop_unwanted(self) -> None:
        wanted = {(place.address, place.prefix) for place in self._places.values()}
        for unwanted in self._watches.keys() - wanted:
            self._stop(unwanted)

    def close(self) -> None:
        """Ends all watches."""
        for source in list(self._watches):
            self._stop(source)

    def _watch(self, place: _Place) -> LeaseWatch:
        source = (place.address, place.prefix)
        if source not in self._watches:
            watch = self._watches[source] = LeaseWatch(place.address, place.prefix, self._take)
            self._metrics.watch_age(_label(source), watch)
        return self._watches[source]

    def _stop(self, source: _Source) -> None:
        self._watches.pop(source).stop()
        self._metrics.forget_watch(_label(source))

    def _take(self, watch: LeaseWatch, before: ConsulView, now: ConsulView) -> None:
        for key in self._touched(watch, before, now):
            self._changed(key)

    def _touched(self, watch: LeaseWatch, before: ConsulView, now: ConsulView) -> Iterable[ClusterKey]:
        is_general = before.state is not now.state
        for key, place in self._places.items():
            if self._watches.get((place.address, place.prefix)) is not watch:
                continue
            if is_general or before.holders.get(place.key) != now.holders.get(place.key):
                yield key


def _label(source: _Source) -> str:
    """The name of a watch in the metrics; an address has no token in it."""
    return f"{source[0].base_url}/{source[1]}"


def _view_of(view: ConsulView, key: str) -> LeaseView:
    holder: Holder | None = view.holders.get(key)
    if view.state is ConsulState.ANSWERED:
        return LeaseView(state=LeaseState.HELD if holder is not None else LeaseState.FREE, holder=holder)
    state = {
        ConsulState.UNREACHABLE: LeaseState.UNREACHABLE,
        ConsulState.DENIED: LeaseState.HIDDEN,
        ConsulState.UNKNOWN: LeaseState.UNKNOWN,
    }[view.state]
    return LeaseView(state=state, message=view.message)
