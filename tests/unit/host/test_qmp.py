"""The QMP client, with monitors that behave and monitors that do not."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.unit.host.fake_monitor import GREETING, Talk, answering, listening
from virtscope.errors import AccessDenied, GuestNotFound, MonitorError, VirtscopeError
from virtscope.host.qmp import QmpClient, peer_pid

EVENT = b'{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n'


def test_asks_and_leaves(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    answers: dict[str, object] = {
        "query-status": {"return": {"running": True}},
        "info version": {"return": "7.2\r\n"},
    }
    with listening(path, answering(answers, before=EVENT)):
        for _ in range(2):  # the second client is served because the first has left
            with QmpClient(path) as monitor:
                assert monitor.execute("query-status") == {"running": True}
                assert monitor.human("info version") == "7.2\r\n"


def test_an_abstract_socket() -> None:
    name = f"\0virtscope-test-{os.getpid()}"
    with listening(name, answering({})), QmpClient(name) as monitor:
        assert monitor.execute("anything") == {}


def test_a_path_longer_than_a_socket_address_holds(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    directory.mkdir(parents=True)
    short = tmp_path / "s"
    with listening(short, answering({})):
        (directory / "qmp").hardlink_to(short)
        QmpClient(str(directory / "qmp")).close()


def test_a_refusal_says_what_was_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    error = {"error": {"class": "GenericError", "desc": "no such thing"}}
    with (
        listening(path, answering({"query-x": error})),
        QmpClient(path) as monitor,
        pytest.raises(MonitorError, match=r"query-x.*no such thing"),
    ):
        monitor.execute("query-x")


def test_text_that_is_no_text(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    with (
        listening(path, answering({"info x": {"return": [1]}})),
        QmpClient(path) as monitor,
        pytest.raises(MonitorError, match="other than text"),
    ):
        monitor.human("info x")


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def greets_and_hangs(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    while connection.recv(4096):
        pass


def trickles(connection: socket.socket) -> None:
    for byte in GREETING * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def floods_with_events(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    while True:
        connection.sendall(EVENT * 100)


def floods_without_a_line(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    while True:
        connection.sendall(bytes(1 << 16))


@pytest.mark.parametrize(
    "talk", [silent, greets_and_hangs, trickles, floods_with_events, floods_without_a_line]
)
def test_no_monitor_costs_more_than_its_deadline(tmp_path: Path, talk: Talk) -> None:
    path = str(tmp_path / "qmp")
    with (
        listening(path, talk),
        pytest.raises(MonitorError, match=r"did not answer within 0\.2 s|MiB at once"),
    ):
        QmpClient(path, timeout=0.2)


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"[1]\n",
        b"{}\n",
        b'{"QMP": 5}\n',
        b'{"QMP": {}}\n{"return": \n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) \r\n",
    ],
)
def test_what_is_no_monitor_is_refused(tmp_path: Path, greeting: bytes) -> None:
    path = str(tmp_path / "qmp")

    def talk(connection: socket.socket) -> None:
        connection.sendall(greeting)

    with listening(path, talk), pytest.raises(MonitorError):
        QmpClient(path, timeout=1)


def test_a_monitor_that_serves_another_client_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    with listening(path, silent), pytest.raises(MonitorError, match="another client"):
        QmpClient(path, timeout=60, is_taken=lambda: True)


def test_no_socket_there(tmp_path: Path) -> None:
    with pytest.raises(GuestNotFound, match="nothing"):
        QmpClient(str(tmp_path / "nothing"))


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(GuestNotFound, match="nobody listens"):
        QmpClient(str(path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GuestNotFound):
        QmpClient(str(tmp_path / "file"))


def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match="not allowed"):
        QmpClient(str(tmp_path / "qmp"))


def test_the_process_behind_a_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    with listening(path, silent):
        assert peer_pid(path) == os.getpid()


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VirtscopeError):
        QmpClient(str(tmp_path / "nothing"))
    path = str(tmp_path / "qmp")

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"no\n")

    with listening(path, talk), pytest.raises(MonitorError):
        QmpClient(path)
    assert len(os.listdir("/proc/self/fd")) == before
