"""Fixtures and options of the whole test suite."""

import signal

import pytest
from hypothesis import settings

# Deterministic: the same examples in every run, so that a failure in CI is a failure at the desk.
settings.register_profile("litefs", derandomize=True, deadline=None)
settings.load_profile("litefs")

# Whoever ends the run early, as a time limit does, leaves no node and no mount behind either.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_litefs_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps variables of the caller's shell, which LiteFS would read, out of the tests."""
    for name in ("LITEFS_SETTINGS", "LITEFS_CLOUD_TOKEN", "LITEFS_CLOUD_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
