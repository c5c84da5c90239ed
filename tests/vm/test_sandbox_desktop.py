"""Real programs on real displays, seen over VNC and SPICE; and the colour profile that Firefox is told of."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from virtscope.errors import MissingDependency, SandboxTimeout
from virtscope.sandbox import Sandbox, desktop, screen
from virtscope.sandbox.definition import Display
from virtscope.sandbox.execution import Execution
from virtscope.sandbox.session import Session


class Screen:
    """As much of a VNC client (RFC 6143) as a screenshot needs."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(path)
        self._read(12)
        self._socket.sendall(b"RFB 003.008\n")
        self._read(self._read(1)[0])
        self._socket.sendall(b"\x01")
        assert self._read(4) == bytes(4)
        self._socket.sendall(b"\x01")
        self.width, self.height = struct.unpack(">HH", self._read(4))
        self._read(16)
        self._read(struct.unpack(">I", self._read(4))[0])
        layout = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        self._socket.sendall(b"\0\0\0\0" + layout + struct.pack(">BxHi", 2, 1, 0))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            assert piece
            data += piece
        return bytes(data)

    def pixels(self) -> bytes:
        """The whole screen, four bytes for each pixel: blue, green, red, nothing."""
        self._socket.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        screen = bytearray(self.width * self.height * 4)
        while True:
            kind = self._read(1)[0]
            assert kind == 0
            (count,) = struct.unpack(">xH", self._read(3))
            for _ in range(count):
                left, top, width, height, _ = struct.unpack(">HHHHi", self._read(12))
                for row in range(top, top + height):
                    at = (row * self.width + left) * 4
                    screen[at : at + width * 4] = self._read(width * 4)
            return bytes(screen)

    def touch(self, x: int, y: int, text: str) -> None:
        """Move the pointer there, press its button, and type small letters."""
        for buttons in (0, 1, 0):
            self._socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))
            time.sleep(0.1)
        for letter in text:
            for down in (1, 0):
                key = 0xFF0D if letter == "\n" else ord(letter)
                self._socket.sendall(struct.pack(">BBxxI", 4, down, key))
            time.sleep(0.05)

    def close(self) -> None:
        self._socket.close()


class Spice:
    """As much of a SPICE client (the protocol's "Link" section) as being let in needs."""

    MAIN = 1
    MAIN_INIT = 103

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(30)
        link = struct.pack("<IBBIII", 0, self.MAIN, 0, 0, 0, 18)
        self._socket.sendall(b"REDQ" + struct.pack("<III", 2, 2, len(link)) + link)
        assert self._read(4) == b"REDQ"
        major, _, size = struct.unpack("<III", self._read(12))
        reply = self._read(size)
        assert (major, reply[:4]) == (2, bytes(4))
        self._key = reply[4 : 4 + 162]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._socket.recv(size - len(data))):
            data += piece
        assert len(data) == size
        return data

    def enter(self, password: str, folder: Path) -> int:
        """Send the ticket; what the server makes of it (0: come in)."""
        (folder / "key").write_bytes(self._key)
        command = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER"]
        command += ["-inkey", str(folder / "key"), "-pkeyopt", "rsa_padding_mode:oaep"]
        secret = password.encode() + b"\0"
        self._socket.sendall(subprocess.run(command, input=secret, capture_output=True, check=True).stdout)
        return int.from_bytes(self._read(4), "little")

    def first_message(self) -> int:
        """The type of the first message of the main channel."""
        _, kind = struct.unpack_from("<QH", self._read(18))
        return int(kind)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], tuple[Sandbox, Display, str]]:
    """A sandbox with a display, as `desktop.start` would start it, without a display server in it."""

    def prepare(address: str) -> tuple[Sandbox, Display, str]:
        box = desktop.display(Sandbox().with_limits(memory=256 << 20), address)
        assert box.definition.display is not None
        folder = tmp_path / "screen"
        folder.mkdir()
        shown, password = screen.prepared(box.definition.display, str(folder), box.definition.who())
        return box.with_options(display=shown), shown, password

    return prepare


def needs_spice() -> None:
    try:
        screen.check(Display("spice"))
    except MissingDependency as error:
        pytest.skip(str(error))


def test_spice_on_a_socket(prepared: Callable[[str], tuple[Sandbox, Display, str]], tmp_path: Path) -> None:
    needs_spice()
    box, shown, password = prepared("spice")
    assert password == ""
    with box.start() as session:
        assert session.run(["true"], timeout=30).ok
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(shown.socket)
            client = Spice(connection)
            assert client.enter("", tmp_path) == 0
            assert client.first_message() == Spice.MAIN_INIT
        assert os.stat(shown.socket).st_mode & 0o022 == 0


def test_spice_on_a_port_wants_the_password(
    prepared: Callable[[str], tuple[Sandbox, Display, str]], tmp_path: Path
) -> None:
    needs_spice()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    box, shown, password = prepared(f"spice:{port}")
    assert os.stat(shown.secret).st_mode & 0o077 == 0
    with box.start():
        answers = []
        for given in ("", "wrong", password):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                answers.append(Spice(connection).enter(given, tmp_path))
    assert answers[2] == 0
    assert 0 not in answers[:2]


def colours(address: str) -> Counter[bytes]:
    shot = Screen(address)
    pixels = shot.pixels()
    shot.close()
    return Counter(pixels[at : at + 3][::-1] for at in range(0, len(pixels), 4))


def wait_for_colours(session: Session, run: Execution, address: str, wanted: dict[bytes, int]) -> None:
    """Wait until so many pixels at least have these colours."""
    seen: Counter[bytes] = Counter()
    deadline = time.monotonic() + 90
    while any(seen[colour] < count for colour, count in wanted.items()):
        assert time.monotonic() < deadline, seen.most_common(5)
        assert run.result is None
        session.pump(lambda: run.started, time.monotonic() + 60)
        seen = colours(address)
        time.sleep(0.5)


@pytest.mark.slow
def test_a_program_is_seen_on_xorg(tmp_path: Path) -> None:
    if not all(shutil.which(name) for name in ("Xorg", "xlogo", "xev")):
        pytest.skip("Xorg, xlogo and xev are not installed")
    address = str(tmp_path / "vnc")
    box = desktop.display(Sandbox(), f"unix:{address}")
    with desktop.start(box) as session:
        run = session.start(["xlogo", "-fg", "#ff0000", "-bg", "#0000ff", "-geometry", "1280x800+0+0"])
        wait_for_colours(session, run, address, {b"\xff\0\0": 10_000, b"\0\0\xff": 100_000})
        session.signal(run, signal.SIGTERM)
        events = session.start(["xev", "-geometry", "1280x800+0+0"])
        heard = events.sinks[0].collected
        session.pump(lambda: b"MapNotify" in heard, time.monotonic() + 60)
        shot = Screen(address)
        for word in (b"ButtonPress", b"keysym 0x78, x)"):
            while word not in heard:
                shot.touch(640, 400, "x")
                with contextlib.suppress(SandboxTimeout):
                    session.pump(lambda word=word: word in heard, time.monotonic() + 5)  # type: ignore[misc]
                assert events.result is None
        shot.close()
    assert not os.path.lexists(address)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_program_is_seen_in_the_kiosk(user: str) -> None:
    if not all(shutil.which(name) for name in ("cage", "seatd", "Xwayland", "foot")):
        pytest.skip("cage, seatd, Xwayland and foot are not installed")
    told: list[str] = []
    box = desktop.display(Sandbox().with_user(user), "vnc", server="cage")
    with desktop.start(box, None, lambda address, _password: told.append(address)) as session:
        script = "while read line; do test $line = typed && exit 42; done"
        run = session.start(["foot", "-o", "colors.background=ff0000", "sh", "-c", script])
        address = told[0].removeprefix("vnc+unix://")
        wait_for_colours(session, run, address, {b"\xff\0\0": 500_000})
        shot = Screen(address)
        deadline = time.monotonic() + 120
        while run.result is None and time.monotonic() < deadline:
            # an emulated processor is slow to give the window the keyboard: the first letters may be lost
            shot.touch(640, 400, "\ntyped\n")
            with contextlib.suppress(SandboxTimeout):
                session.pump(lambda: run.finished, time.monotonic() + 5)
        shot.close()
        assert session.wait(run, time.monotonic() + 1).status == 42
        if user != "root" and shutil.which("xlogo"):
            run = session.start(["xlogo", "-fg", "#00ff00", "-bg", "#0000ff"])
            wait_for_colours(session, run, address, {b"\0\xff\0": 10_000, b"\0\0\xff": 100_000})
    assert not os.path.lexists(os.path.dirname(address))


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_profile_of_a_real_display(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = bytes(36) + b"acsp" + bytes(range(256)) * 40
    with tempfile.TemporaryFile() as number:
        words = ["Xvfb", "-displayfd", "1", "-screen", "0", "64x64x24", "-nolisten", "tcp", "-noreset"]
        server = subprocess.Popen(words, stdout=number, stderr=subprocess.DEVNULL, cwd=tmp_path)
        try:
            deadline = time.monotonic() + 30
            while not (shown := os.pread(number.fileno(), 16, 0).strip()) and time.monotonic() < deadline:
                time.sleep(0.02)
            monkeypatch.setenv("DISPLAY", f":{shown.decode()}")
            assert desktop.host_profile() is None
            set_root_property(f"/tmp/.X11-unix/X{shown.decode()}", b"_ICC_PROFILE", profile)
            assert desktop.host_profile() == profile
        finally:
            server.kill()
            server.wait()


def set_root_property(path: str, name: bytes, data: bytes) -> None:
    """Set a CARDINAL/8 property of the root window: three requests of the X protocol."""

    def read(connection: socket.socket, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = connection.recv(size - len(got))
            assert piece
            got += piece
        return got

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, 0, 0))
        accepted, length = struct.unpack("<BxxxxxH", read(connection, 8))
        answer = read(connection, length * 4)
        assert accepted == 1
        (vendor,) = struct.unpack_from("<H", answer, 16)
        formats = answer[21]
        (root,) = struct.unpack_from("<I", answer, 32 + (vendor + 3 & ~3) + 8 * formats)
        padded = name + bytes(-len(name) % 4)
        intern = struct.pack("<BBHHxx", 16, 0, 2 + len(padded) // 4, len(name)) + padded
        connection.sendall(intern)
        (atom,) = struct.unpack_from("<I", read(connection, 32), 8)
        filled = data + bytes(-len(data) % 4)
        head = struct.pack("<BBHIIIBxxxI", 18, 0, 6 + len(filled) // 4, root, atom, 6, 8, len(data))
        connection.sendall(head + filled)
        connection.sendall(intern)  # an answer to it means that all before is done
        read(connection, 32)
