"""What the node process is told of a snapshot, to read it by itself."""

from litefs.link.messages import SnapshotOpened
from litefs.storage.database import Database


def open_snapshot(database: Database, snapshot_id: int) -> SnapshotOpened:
    """Freezes the position of a database. The caller closes the aside of `snapshot_id` when it is read."""
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
