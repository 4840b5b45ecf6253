"""How this node introduces itself to another one: the headers of each request that it makes."""

from dataclasses import dataclass, field

from litefs.node.cluster_id import ClusterId


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """This node, as others are to see it.

    Attributes:
        node_id: of the data directory.
        cluster: the cluster that this node belongs to, if it knows that yet.
        token: the secret that all nodes share; "" where there is none.
    """

    node_id: int
    cluster: ClusterId
    token: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """Returns the headers. Go LiteFS knows the first alone, and ignores the others."""
        headers = {"Litefs-Id": f"{self.node_id:016X}"}
        if self.cluster.text:
            headers["Litefs-Cluster-Id"] = self.cluster.text
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers
