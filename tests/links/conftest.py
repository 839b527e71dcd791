import pytest

from tests.links.sealed import SHORT
from tunneld.links import streams


@pytest.fixture
def short(monkeypatch):
    """A sealed handshake over TCP has not 5 s, but as many as the tests can wait for."""
    monkeypatch.setattr(streams, "HANDSHAKE_TIMEOUT", SHORT)
