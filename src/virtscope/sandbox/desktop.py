"""A display for a program in a sandbox: Xorg of the host on the machine's own graphics card, seen over VNC.

The X server and its udev run in the machine, as its root; the program as the sandbox's user. Firefox is told
the colour profile of the display by its own preferences. Entry point: `run`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Sequence

from virtscope.errors import SandboxError, UsageError
from virtscope.sandbox import Sandbox, rescue, terminal
from virtscope.sandbox.session import Session, printable

MEMORY = 1 << 30
PATIENCE = 180.0
PROFILE = "/run/virtscope/display.icc"
LARGEST_PROFILE = 8 << 20

_START = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/lib/systemd:/usr/lib/systemd
if command -v systemd-udevd >/dev/null; then
    systemd-udevd --daemon && udevadm trigger --action=add && udevadm settle -t 20
fi
setsid Xorg :0 vt1 -nolisten tcp -noreset -ac -logfile /run/virtscope/Xorg.log </dev/null >/dev/null 2>&1 &
n=0
while [ ! -S /tmp/.X11-unix/X0 ]; do
    kill -0 $! 2>/dev/null && [ $((n += 1)) -lt 1500 ] || { grep '(EE)' /run/virtscope/Xorg.log >&2; exit 1; }
    sleep 0.1
done
"""


def vnc_address(text: str) -> str:
    """QEMU's form of the address; one without a host is this host only, never everybody.

    Raises:
        UsageError: it is none.
    """
    if text.startswith("unix:/"):
        return text
    host, colon, number = text.rpartition(":")
    if not colon or not number.isdigit() or int(number) > 99:
        raise UsageError(f"--desktop {text}: a display like :1, HOST:1 or unix:/path")
    return f"{host or '127.0.0.1'}:{number}"


def display(sandbox: Sandbox, address: str) -> Sandbox:
    """The sandbox with a screen.

    Raises:
        UsageError: its back end has none.
    """
    if sandbox.definition.backend != "qemu:":
        raise UsageError("--desktop works with the qemu: back end only")
    if sandbox.definition.limits.memory is None:
        sandbox = sandbox.with_limits(memory=MEMORY)
    sandbox = sandbox.with_environment({"DISPLAY": ":0"})
    return sandbox.with_options(display=vnc_address(address))


def host_profile() -> bytes | None:
    """The colour profile on the root window of the host's X display (`_ICC_PROFILE`), if there is one."""
    if not os.environ.get("DISPLAY") or shutil.which("xprop") is None:
        return None
    import subprocess

    words = ["xprop", "-root", "-notype", "-len", str(LARGEST_PROFILE), "8c", "_ICC_PROFILE"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_profile(done.stdout)


def parse_profile(text: str) -> bytes | None:
    """The profile from what xprop prints: "_ICC_PROFILE = 0, 0, 2, ..."."""
    _, equals, numbers = text.partition("=")
    values = re.findall(r"-?\d+", numbers) if equals else []
    data = bytes(int(value) & 255 for value in values[:LARGEST_PROFILE])
    return data if data[36:40] == b"acsp" else None


def firefox_preferences() -> str:
    """A user.js that makes Firefox use the display's profile for everything."""
    return (
        'user_pref("gfx.color_management.mode", 1);\n'
        f'user_pref("gfx.color_management.display_profile", "{PROFILE}");\n'
        'user_pref("gfx.color_management.enablev4", true);\n'
    )


def start_display(session: Session, sandbox: Sandbox, profile: bytes | None) -> None:
    """Start the X server in a running machine and give it the colour profile.

    Raises:
        SandboxError: it did not come up; the message has its own words.
    """
    words = ["/bin/sh", "-c", _START]
    result = session.run(words, identity=rescue.ROOT, cwd="/", timeout=PATIENCE)
    if result.status:
        said = printable(result.stderr[-300:]) or "is Xorg installed on this host?"
        raise SandboxError(f"the display did not start: {said}")
    if profile is not None:
        who = sandbox.definition.who()
        folder = f"{who.home}/.mozilla/firefox"
        index = "[Profile0]\nName=default\nIsRelative=1\nPath=sandbox\nDefault=1\n"
        operations = [
            ("mkdir", "/run/virtscope", 0o755),
            ("file", PROFILE, 0o644, 0, 0, profile),
            ("mkdir", f"{who.home}/.mozilla", 0o700, who.uid, who.gid),
            ("mkdir", folder, 0o700, who.uid, who.gid),
            ("mkdir", f"{folder}/sandbox", 0o700, who.uid, who.gid),
            ("file", f"{folder}/profiles.ini", 0o600, who.uid, who.gid, index),
            ("file", f"{folder}/sandbox/user.js", 0o600, who.uid, who.gid, firefox_preferences()),
        ]
        session.setup(operations, time.monotonic() + 30)


def run(sandbox: Sandbox, argv: Sequence[str], *, icc: str | None = None) -> int:
    """Run a program with a display until it ends; returns its status.

    Args:
        sandbox: as `display` made it.
        argv: the program.
        icc: a colour profile's file instead of the host display's.
    """
    profile = host_profile()
    if icc is not None:
        try:
            with open(icc, "rb") as stream:
                profile = stream.read(LARGEST_PROFILE)
        except OSError as error:
            raise UsageError(f"{icc}: {error.strerror}") from None
        if profile[36:40] != b"acsp":
            raise UsageError(f"{icc}: not an ICC profile")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with sandbox.start() as session:
        start_display(session, sandbox, profile)
        return terminal.run(session, argv, timeout=sandbox.definition.limits.timeout).status
