"""How screens are named, what QEMU is told of them, and colour profiles: what needs no machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virtscope.errors import UsageError
from virtscope.sandbox import Sandbox, desktop, plan, screen


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
    ("text", "address"),
    [
        (":1", "vnc://127.0.0.1:5901"),
        ("0.0.0.0:7", "vnc://0.0.0.0:5907"),
        ("vnc::3", "vnc://127.0.0.1:5903"),
        ("[::1]:2", "vnc://[::1]:5902"),
        ("unix:/x", "vnc+unix:///x"),
        ("spice:5999", "spice://127.0.0.1:5999"),
        ("spice:10.0.0.1:5999", "spice://10.0.0.1:5999"),
        ("spice:unix:/a,b", "spice+unix:///a,b"),
    ],
)
def test_a_display_without_a_host_is_for_this_host(text: str, address: str) -> None:
    assert screen.where(screen.parse(text)) == address


@pytest.mark.parametrize(
    "text", ["", "1", ":x", ":100", "unix:x", "spice:0", "spice:unix:x", "a,b:1", "rdp:1x"]
)
def test_wrong_displays(text: str) -> None:
    with pytest.raises(UsageError):
        screen.parse(text)


def test_a_comma_in_a_socket_is_no_option_of_qemus() -> None:
    arguments = screen.qemu_arguments(screen.parse("spice:unix:/a,port=1"), "pci")
    assert arguments[-1] == "unix=on,addr=/a,,port=1,disable-ticketing=on"


def test_a_named_socket_is_a_link_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder, place = tmp_path / "own", tmp_path / "place"
    folder.mkdir()
    display = screen.parse(f"unix:{place}")
    for _ in range(2):  # a killed sandbox leaves its link
        shown, _password = screen.prepared(display, str(folder), Sandbox().definition.who())
        assert place.readlink() == folder / "vnc"
        assert screen.where(shown) == f"vnc+unix://{place}"
        assert screen.folders(shown) == [str(folder)]
    screen.remove_link(shown)
    assert not os.path.lexists(place)
    place.write_text("mine")
    with pytest.raises(UsageError, match="File exists"):
        screen.prepared(display, str(folder), Sandbox().definition.who())
    screen.remove_link(display)
    assert place.read_text() == "mine"


def test_no_port_is_open_without_a_password() -> None:
    for text in (":1", "spice:5999"):
        arguments = screen.qemu_arguments(screen.parse(text), "pci")
        assert "password-secret=" in arguments[-1]


def test_lists_of_numbers() -> None:
    assert plan.numbers("0-2,5") == {0, 1, 2, 5}
    assert plan.numbers("7") == {7}


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "3-1", "0,,1", "0-9999999", "123456789", "0-1-2", "\u0661"]
)
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UsageError):
        plan.numbers(text)
