"""What runs in the default lab guest: its processes and network, as data that `script()` makes a script of.

Tests may import `PROCESSES` to know what must be found, but what they compare with is what the guest's own
/proc says.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Process:
    """One process, started by `programs/actor.c` (its head comment explains every field).

    Attributes:
        name: The executed file's name; the kernel keeps its first 15 bytes.
        args: Its arguments after argv[0].
        pids: How many processes it makes (a zombie's parent and its zombie are two).
    """

    name: str
    args: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    nice: int = 0
    session: bool = False
    group: bool = False
    leader_gone: bool = False
    unshare: str = ""
    hostname: str = ""
    threads: int = 0
    resident_kib: int = 0
    terminal: bool = False
    comm: str = ""
    title: str = ""
    state: str = ""
    cgroup: str = ""

    def command(self) -> str:
        """The shell command that starts it."""
        words = ["actor", self.name]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "args") and value:
                words.append(f"{field.name}={int(value) if isinstance(value, bool) else value}")
        return shlex.join([*words, "--", *self.args])


PROCESSES = (
    Process("lab-plain"),
    Process("lab-args", args=("two words", "tab\there", "back\\slash", "quote'd", "", "--last=ünïcode")),
    Process("lab-a-very-long-name", args=("the-name-is-cut-at-15-bytes",)),
    Process("lab (odd) name", args=("--parentheses",)),
    Process("lab-user", uid=1001, gid=1001, nice=5),
    Process("lab-unknown-id", uid=54321, gid=54322, nice=-7),
    Process("lab-session", session=True),
    Process("lab-group", group=True),
    Process("lab-orphan", leader_gone=True, args=("my", "leader", "is", "gone")),
    Process("lab-threads", threads=3),
    Process("lab-resident", resident_kib=8192),
    Process("lab-terminal", terminal=True),
    Process("lab-namespaces", unshare="pid,net,uts,mnt,ipc", hostname="inner-host"),
    Process("lab-userns", unshare="user"),
    Process("lab-cgroup", cgroup="lab-slice"),
    Process("lab-zombie", state="zombie"),
    Process("lab-stopped", state="stopped"),
    Process("lab-disk", state="disk"),
    Process("lab-escape", comm="\x1b[31mred\x07\n\\x", args=("\x1b]0;title\x07",)),
    Process("lab-title", args=("room for the title to be written",), title="lab: a new title"),
)

NETWORK = """
link set lo up
link set eth0 mtu 1400
link set eth0 up
addr add 192.0.2.10/24 dev eth0
addr add 192.0.2.11/24 dev eth0 label eth0:1
addr add 2001:db8::10/64 dev eth0 nodad
link add dummy1 type dummy
link set dummy1 address 02:00:00:00:00:d1 mtu 9000
link set dummy1 up
addr add 198.51.100.1/25 dev dummy1
addr add 10.9.0.1 peer 10.9.0.2/32 dev dummy1
link add link eth0 name eth0.42 type vlan id 42
link set eth0.42 up
addr add 203.0.113.5/28 dev eth0.42
link add dummy2 type dummy
link add br0 type bridge
link set dummy2 master br0
link set br0 up
addr add 2001:db8:1::1/48 dev br0 nodad
netns add inner
link add veth0 type veth peer name veth1 netns inner
link set veth0 up
addr add 10.1.0.1/24 dev veth0
"""
"""Commands of `ip` in the first network namespace. (The dummy module makes a dummy0, which stays down.)"""

INNER_NETWORK = """
link set lo up
link set veth1 up
addr add 10.1.0.2/24 dev veth1
addr add fd00:1::2/64 dev veth1 nodad
"""
"""The same in the namespace `inner`."""

HOSTNAME = "lab-guest"


def script() -> str:
    """The set-up script of the default guest."""
    return "\n".join(
        [
            "#!/bin/sh",
            "set -e",
            f"hostname {HOSTNAME}",
            "mkdir -p /run/netns",
            # The network is to fall silent soon after boot, so that counters can be compared.
            "for part in default eth0; do echo 0 >/proc/sys/net/ipv6/conf/$part/router_solicitations; done",
            f"ip -batch - <<'END'{NETWORK}END",
            f"ip -netns inner -batch - <<'END'{INNER_NETWORK}END",
            *(process.command() for process in PROCESSES),
            # Counters that are not zero, on the interfaces where that is certain.
            "ping -q -c 2 -i 0.1 -W 1 10.1.0.2 >/dev/null",
            "ping -q -c 1 -W 1 127.0.0.1 >/dev/null",
            "",
        ]
    )
