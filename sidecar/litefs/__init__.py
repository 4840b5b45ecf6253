"""LiteFS: replicates SQLite databases between nodes through a FUSE mount.

Here: the packages of the sidecar, lowest first: `formats`, `storage`, `link`, `lease`, `filesystem` beside
`node`, `http`, `cli`.
Not here: the Kubernetes operator, which lives in `litefs_operator` and is never imported.
"""
