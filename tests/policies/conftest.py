"""Fixtures of all tests of policies."""

import socket

import pytest


@pytest.fixture
def unused_url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def fast_retries(monkeypatch):
    """Waits between tries of hundredths of a second."""
    monkeypatch.setattr("agenttuning.policies.wire.FIRST_WAIT_S", 0.02)
    monkeypatch.setattr("agenttuning.policies.wire.LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr("agenttuning.policies.endpoint.CHECK_PATIENCE_S", 0.5)
