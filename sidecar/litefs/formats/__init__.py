"""Byte formats, sans-IO: bytes in, frozen records out, and back.

Here: LTX images, SQLite's database header, rollback journal, WAL and wal-index, the replication stream, checksums,
positions. Not here: files, sockets, clocks, chance, logging, or any decision about what the bytes are for.
A decoder yields a value, asks for more data (`NeedMoreData`, or an empty result), or raises `FormatError`.
"""
