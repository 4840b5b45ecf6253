"""What the filesystem process does for a snapshot, without one."""

from litefs.link.messages import SnapshotOpened
from litefs.storage.database import Database


def frozen(database: Database, snapshot_id: int = 1) -> SnapshotOpened:
    """Freezes the position of a database. Returns how it is read; the caller closes the aside of `snapshot_id`."""
    aside = database.base.open_aside(snapshot_id, database.txid, database.base_txid, database.page_n)
    return SnapshotOpened(
        snapshot_id=snapshot_id,
        name=database.name,
        txid=database.txid,
        checksum=database.checksum,
        page_size=database.page_size,
        page_n=database.page_n,
        timestamp_ms=database.timestamp_ms,
        base_txid=database.base_txid,
        base_path=str(database.base.path),
        aside_path=str(aside.path),
        aside_map_path=str(aside.map_path),
    )
