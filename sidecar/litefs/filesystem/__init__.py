"""The FUSE server: the poll loop, the inode table, the operations, and our side of the link.

Here: what a request of the kernel means for storage, and what the kernel may cache.
Not here: whether a transaction is durable (storage decides), and anything that touches a mount: a
process that waits for its own mount cannot be killed.
"""
