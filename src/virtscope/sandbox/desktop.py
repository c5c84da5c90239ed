"""A display for a program in a sandbox: the host's Xorg or a Wayland kiosk, on the machine's graphics card.

The display server and its udev run in the machine, as its root; the program as the sandbox's user. Firefox is
told the colour profile of the display by its own preferences. How the screen is seen from the host is the
matter of screen.py. Entry points: `display`, `start`, `run`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence

from virtscope.errors import SandboxError, UsageError
from virtscope.sandbox import Sandbox, rescue, runtime, screen, terminal
from virtscope.sandbox.definition import Identity
from virtscope.sandbox.session import Session, printable

MEMORY = 1 << 30
PATIENCE = 180.0
PROFILE = "/run/virtscope/display.icc"
LARGEST_PROFILE = 8 << 20
WAYLAND = "wayland-0"

_DEVICES = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/lib/systemd:/usr/lib/systemd
if command -v systemd-udevd >/dev/null; then
    systemd-udevd --daemon 2>/dev/null && udevadm trigger --action=add && udevadm settle -t 20
fi
unset DISPLAY WAYLAND_DISPLAY
"""

_XORG = r"""
command -v Xorg >/dev/null || { echo "Xorg is not installed on this host" >&2; exit 1; }
setsid Xorg :0 vt1 -nolisten tcp -noreset -ac -logfile /run/virtscope/Xorg.log </dev/null >/dev/null 2>&1 &
n=0
while [ ! -S /tmp/.X11-unix/X0 ]; do
    kill -0 $! 2>/dev/null && [ $((n += 1)) -lt 1500 ] || { grep '(EE)' /run/virtscope/Xorg.log >&2; exit 1; }
    sleep 0.1
done
"""

# The kiosk refuses to run as root: it gets its devices from a seat's daemon, and runs as the program's user,
# or as nobody for a program that is root.
_SEAT = r"""
for name in cage seatd; do
    command -v $name >/dev/null || { echo "$name is not installed on this host" >&2; exit 1; }
done
mkdir -p -m 700 "${2%/*}" && chown "$1" "${2%/*}"
SEATD_VTBOUND=0 setsid seatd </dev/null >/run/virtscope/seatd.log 2>&1 &
n=0
while [ ! -S /run/seatd.sock ]; do
    kill -0 $! 2>/dev/null && [ $((n += 1)) -lt 300 ] || { tail -n 3 /run/virtscope/seatd.log >&2; exit 1; }
    sleep 0.1
done
chown "$1" /run/seatd.sock
[ "$2" = "$3" ] || ln -s "$2" "$3"
"""

# Rendered by the processor, as the machine's graphics card does not. The kiosk shows whatever connects to it,
# and ends with the command it was given: one that outlives every program.
_CAGE = r"""
export XDG_RUNTIME_DIR=${2%/*} HOME=/tmp LIBSEAT_BACKEND=seatd
export WLR_BACKENDS=drm,libinput WLR_RENDERER=pixman WLR_NO_HARDWARE_CURSORS=1 WLR_LIBINPUT_NO_DEVICES=1
unset DISPLAY WAYLAND_DISPLAY
setsid cage -- sleep infinity </dev/null >$XDG_RUNTIME_DIR/cage.log 2>&1 &
n=0
while [ ! -S "$2" ]; do
    kill -0 $! 2>/dev/null && [ $((n += 1)) -lt 1500 ] || { tail -n 3 $XDG_RUNTIME_DIR/cage.log >&2; exit 1; }
    sleep 0.1
done
"""

NOBODY = Identity(65534, 65534, (), "nobody", "/")


def display(sandbox: Sandbox, address: str, *, server: str = "xorg") -> Sandbox:
    """The sandbox with a screen.

    Args:
        sandbox: any that has a machine of QEMU's.
        address: how it is seen from the host (screen.FORMS).
        server: what runs inside, "xorg" or "cage".

    Raises:
        UsageError: its back end has none, or the address is wrong.
    """
    if sandbox.definition.backend != "qemu:":
        raise UsageError("--desktop works with the qemu: back end only")
    shown = screen.parse(address, server)
    if sandbox.definition.limits.memory is None:
        sandbox = sandbox.with_limits(memory=MEMORY)
    who = sandbox.definition.who()
    if server == "cage":
        variables = {
            "WAYLAND_DISPLAY": WAYLAND,
            "XDG_RUNTIME_DIR": f"/run/user/{who.uid}",
            "XDG_SESSION_TYPE": "wayland",
            "MOZ_ENABLE_WAYLAND": "1",
        }
        if who.uid:  # the kiosk's Xwayland lets in its own user only
            variables["DISPLAY"] = ":0"
    else:
        variables = {"DISPLAY": ":0"}
    return sandbox.with_environment(variables).with_options(display=shown)


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
    """Start the display server in a running machine and give it the colour profile.

    Raises:
        SandboxError: it did not come up; the message has its own words.
    """
    who = sandbox.definition.who()
    shown = sandbox.definition.display
    if shown is not None and shown.server == "cage":
        runner = who if who.uid else NOBODY
        sockets = [f"/run/user/{user.uid}/{WAYLAND}" for user in (runner, who)]
        _script(session, _DEVICES + _SEAT, rescue.ROOT, str(runner.uid), *sockets)
        _script(session, _CAGE, runner, str(runner.uid), *sockets)
    else:
        _script(session, _DEVICES + _XORG, rescue.ROOT)
    if profile is not None:
        _give_profile(session, who, profile)


def _script(session: Session, script: str, who: Identity, *words: str) -> None:
    result = session.run(["/bin/sh", "-c", script, "sh", *words], identity=who, cwd="/", timeout=PATIENCE)
    if result.status:
        said = printable(result.stderr[-300:].strip()) or "it said nothing"
        raise SandboxError(f"the display did not start: {said}")


def _give_profile(session: Session, who: Identity, profile: bytes) -> None:
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


def read_profile(path: str) -> bytes:
    """A colour profile's file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        with open(path, "rb") as stream:
            profile = stream.read(LARGEST_PROFILE)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if profile[36:40] != b"acsp":
        raise UsageError(f"{path}: not an ICC profile")
    return profile


def start(
    sandbox: Sandbox, profile: bytes | None = None, told: Callable[[str, str], None] | None = None
) -> Session:
    """Start the machine and the display server in it; the session is to be closed.

    Args:
        sandbox: as `display` made it.
        profile: the display's colour profile.
        told: is given the address for viewers, and the password if they need one, before the start.

    Raises:
        SandboxError: it did not start.
    """
    wanted = sandbox.definition.display
    if wanted is None:
        raise UsageError("this sandbox has no display")
    screen.check(wanted)
    folder = runtime.make_folder()

    def clean() -> None:
        runtime.remove_folder(folder)
        screen.remove_link(wanted)

    try:
        shown, password = screen.prepared(wanted, folder, sandbox.definition.who())
        if told is not None:
            told(screen.where(shown), password)
        sandbox = sandbox.with_options(display=shown)
        if profile is not None:
            # Else Firefox makes itself a profile for each place it is installed in, and ignores ours.
            sandbox = sandbox.with_environment({"MOZ_LEGACY_PROFILES": "1"})
        session = sandbox.start()
    except BaseException:
        clean()
        raise
    session.on_close.append(clean)
    try:
        start_display(session, sandbox, profile)
    except BaseException:
        session.abandon()
        raise
    return session


def run(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    icc: str | None = None,
    told: Callable[[str, str], None] | None = None,
) -> int:
    """Run a program with a display until it ends; returns its status.

    Args:
        sandbox: as `display` made it.
        argv: the program.
        icc: a colour profile's file instead of the host display's.
        told: as for `start`.
    """
    profile = host_profile() if icc is None else read_profile(icc)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with start(sandbox, profile, told) as session:
        return terminal.run(session, argv, timeout=sandbox.definition.limits.timeout).status
