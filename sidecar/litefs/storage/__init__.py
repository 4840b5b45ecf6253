"""What lies in the data directory and how it gets there: log, base file, overlay, commits, recovery.

Here: everything that decides whether a transaction is durable, and all file access (through `disk`).
Not here: FUSE, sockets, roles and leases; callers tell storage whether a commit is allowed.
"""
