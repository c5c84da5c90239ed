"""A real program on a real display, seen over VNC; and the colour profile that Firefox is told of."""

from __future__ import annotations

import shutil
import socket
import struct
import time
from pathlib import Path

import pytest

from virtscope.errors import UsageError
from virtscope.sandbox import Sandbox, desktop


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

    def close(self) -> None:
        self._socket.close()


@pytest.mark.slow
def test_a_program_is_seen(tmp_path: Path) -> None:
    if shutil.which("Xorg") is None or shutil.which("xlogo") is None:
        pytest.skip("Xorg and xlogo are not installed")
    address = str(tmp_path / "vnc")
    box = desktop.display(Sandbox().with_bind("/tmp/vnc", str(tmp_path), writable=True), f"unix:{address}")
    with box.start() as session:
        desktop.start_display(session, box, None)
        run = session.start(["xlogo", "-fg", "#ff0000", "-bg", "#0000ff", "-geometry", "1280x800+0+0"])
        deadline = time.monotonic() + 60
        red = blue = 0
        while (red < 10_000 or blue < 100_000) and time.monotonic() < deadline:
            session.pump(lambda: run.started, time.monotonic() + 60)
            screen = Screen(address)
            pixels = screen.pixels()
            screen.close()
            colours = [pixels[at : at + 3] for at in range(0, len(pixels), 4)]
            red, blue = colours.count(b"\0\0\xff"), colours.count(b"\xff\0\0")
            time.sleep(0.5)
        assert (red >= 10_000, blue >= 100_000) == (True, True), (red, blue)


def test_profile_from_the_root_window() -> None:
    profile = bytes(36) + b"acsp" + bytes(range(100, 200))
    signed = ", ".join(str(byte - 256 if byte > 127 else byte) for byte in profile)
    assert desktop.parse_profile(f"_ICC_PROFILE = {signed}\n") == profile
    assert desktop.parse_profile("_ICC_PROFILE:  not found.\n") is None
    assert desktop.parse_profile("_ICC_PROFILE = 1, 2, 3\n") is None


def test_firefox_is_told_of_the_profile() -> None:
    preferences = desktop.firefox_preferences()
    assert f'user_pref("gfx.color_management.display_profile", "{desktop.PROFILE}");' in preferences


@pytest.mark.parametrize(
    ("text", "address"), [(":1", "127.0.0.1:1"), ("0.0.0.0:7", "0.0.0.0:7"), ("unix:/x", "unix:/x")]
)
def test_a_display_without_a_host_is_for_this_host(text: str, address: str) -> None:
    assert desktop.vnc_address(text) == address


@pytest.mark.parametrize("text", ["", "1", ":x", ":100", "unix:x"])
def test_wrong_displays(text: str) -> None:
    with pytest.raises(UsageError):
        desktop.vnc_address(text)
