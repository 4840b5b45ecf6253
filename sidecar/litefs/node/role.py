"""Who this node is in a cluster with a static lease: fixed by its configuration, for ever."""

from litefs.link.settings import NodeSettings

FOREVER = float("inf")


class StaticRole:
    """A primary that never loses its lease, or a replica of one that is named."""

    def __init__(self, settings: NodeSettings) -> None:
        """Args: settings: `primary`, and for a replica `primary_url` and `hostname`."""
        self.is_primary = settings.primary
        self.primary_url = settings.primary_url
        self.primary_hostname = settings.hostname

    @property
    def primary_until(self) -> float:
        """Commits are accepted until then, in `time.monotonic()` seconds; 0: never."""
        return FOREVER if self.is_primary else 0.0
