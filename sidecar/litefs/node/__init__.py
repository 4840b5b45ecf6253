"""The node process: role, replication and the application of replicated images, as a client of the mount.

Here: what decides the node's role, follows the primary, and writes replicated transactions through the
mount with ordinary system calls and SQLite's own locks. This process never opens SQLite on the mount:
closing one descriptor would drop the POSIX locks of a connection of the same process.

    the role           roles (the table of them), role_driver, lease_watch, eligibility, election, handing_over, duties
    images coming in   following, follower, stream_client, stream_intake, image_receiver, replicas, takeover
    images applied     applier, image_batch, journal_applier, wal_writer, on a mounted_database with its locks
    the other process  link_client, outbox, pulse, shm_guard
    all together       node

Not here: the data directory's files (storage/ and the filesystem process own them), the HTTP server
(http/), byte formats (formats/).
"""
