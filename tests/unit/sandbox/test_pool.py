"""What a pool that was killed leaves."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from virtscope.sandbox import Sandbox, pool


def test_the_socket_of_a_killed_pool_is_removed_by_who_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        path = pool._address(Sandbox())
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(path)
        assert pool.take(Sandbox()) is None
        assert not os.path.exists(path)
