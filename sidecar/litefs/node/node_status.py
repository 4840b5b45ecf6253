"""What a node says of itself, to the HTTP API and to the command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Where a node stands.

    Attributes:
        node_id: of the data directory; the `Litefs-Id` header and the author of images.
        cluster_id: `LFSC` and 16 hexadecimal digits, or "" while unknown.
        is_primary: this node accepts commits now.
        candidate: this node may become primary.
        primary_hostname: of the current primary, itself included; "" if none is known.
        ready: it is the primary, or has caught up with one since it started.
        obstacle: why it is not ready, in words; "" if it is.
        role: the value of a `roles.Role`.
        lease_remaining_s: how long commits go on if the lease is not renewed, in seconds; 0 on a replica, infinite with
            a static lease.
        lag_ms: age of the newest sign of the primary; 0 on the primary, None before the first sign.
        syncs_every_commit: as a primary it answers a commit when it is durable, whatever the application asked for.
    """

    node_id: int
    cluster_id: str
    is_primary: bool
    candidate: bool
    primary_hostname: str
    ready: bool
    lag_ms: int | None
    obstacle: str = ""
    role: str = "starting"
    lease_remaining_s: float = 0.0
    syncs_every_commit: bool = False

    @property
    def leads(self) -> bool:
        """Replicas may follow this node: it is primary, or was until now and sends what they lack."""
        return self.is_primary or self.role in ("primary", "handing-off", "demoting")
