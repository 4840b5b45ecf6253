"""A random search for orders of half-steps and power cuts after which the storage layer breaks a promise.

Here belongs what draws, models and judges. The disk, and who plays SQLite, are in `tests/support`; orders that were
found once, and what every single call of the disk can do, are in `tests/unit/storage` and `tests/faults`.
"""
