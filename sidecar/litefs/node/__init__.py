"""The node process: role, replication and the application of replicated images, as a client of the mount.

Here: what decides the node's role, follows the primary, and writes replicated transactions through the
mount with ordinary system calls and SQLite's own locks. This process never opens SQLite on the mount:
closing one descriptor would drop the POSIX locks of a connection of the same process.
Not here: the data directory's files (storage/ and the filesystem process own them), the HTTP server
(http/), byte formats (formats/).
"""
