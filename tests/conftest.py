"""Fixtures and options of the whole test suite."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Deterministic: the same examples in every run, so that a failure in CI is a failure at the desk.
settings.register_profile("litefs", derandomize=True, deadline=None)
settings.load_profile("litefs")

# Whoever ends the run early, as a time limit does, leaves no node and no mount behind either.
signal.signal(signal.SIGTERM, signal.default_int_handler)


DIRECTORIES_THAT_MOUNT = frozenset({"mount", "cluster"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a mount where the kernel offers none; in CI that is a failure instead."""
    if Path("/dev/fuse").exists() or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.path.parent.name in DIRECTORIES_THAT_MOUNT:
            item.add_marker(pytest.mark.skip(reason="/dev/fuse is missing"))


@pytest.fixture(autouse=True)
def _no_litefs_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps variables of the caller's shell, which LiteFS would read, out of the tests."""
    for name in ("LITEFS_SETTINGS", "LITEFS_TOKEN", "LITEFS_TOKEN_FILE", "LITEFS_CLOUD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
