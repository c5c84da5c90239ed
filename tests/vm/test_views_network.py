"""virt-ifconfig against the guest's own ip, ifconfig and /proc/net/dev."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import groupby
from typing import Any

import pytest

import virtscope
from lab import Guest
from tests.vm.views_truth import bracketed, install
from virtscope.cli import ifconfig
from virtscope.kernel.network import Interface

DEV_COLUMNS = (
    *(
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "rx_fifo_errors",
        "",
        "rx_compressed",
        "multicast",
    ),
    *(
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
        "tx_fifo_errors",
        "collisions",
        "",
        "tx_compressed",
    ),
)
"""/proc/net/dev's columns; those that add several counters up are left out."""

PRIVATE_COUNTERS = ("eth0", "eth0.42", "br0", "veth0", "veth1")
"""Interfaces whose drivers are modules that count in their own memory, known only where modules have BTF."""


def look(guest: Guest) -> list[Interface]:
    with virtscope.open(qemu=str(guest.pid)) as outside:
        return list(outside.interfaces())


def counters(guest: Guest, namespace: str) -> dict[str, dict[str, int]]:
    text = guest.run(f"{enter(namespace)} cat /proc/net/dev")
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        pairs = zip(DEV_COLUMNS, map(int, numbers.split()), strict=True)
        found[name.strip()] = {column: number for column, number in pairs if column}
    return found


def enter(namespace: str) -> str:
    return f"ip netns exec {namespace}" if namespace else ""


def in_namespace(rows: list[Interface], namespace: str) -> dict[str, Interface]:
    return {
        row.name: row
        for row in rows
        if (row.is_initial_namespace if not namespace else row.namespace_name == namespace)
    }


@pytest.mark.parametrize("namespace", ["", "inner"])
def test_interfaces_and_addresses_as_ip_has_them(guest: Guest, namespace: str) -> None:
    command = f"ip {'-netns ' + namespace if namespace else ''} -j addr"
    before, rows, after = bracketed(lambda: json.loads(guest.run(command)), lambda: look(guest))
    assert isinstance(rows, list)
    seen = in_namespace(rows, namespace)
    assert [link["ifname"] for link in before] == list(seen)
    for link, later in zip(before, after, strict=True):
        row = seen[link["ifname"]]
        ours: dict[str, Any] = {
            "ifindex": row.index,
            "ifname": row.name,
            "flags": list(row.flags),
            "mtu": row.mtu,
            "qdisc": row.qdisc,
            "operstate": row.state.upper(),
            "txqlen": row.queue_length,
            "link_type": row.type,
            "address": row.mac,
            "broadcast": row.broadcast,
        }
        if row.master:
            ours["master"] = row.master
        if row.link_name:
            ours["link"] = row.link_name
        for key, value in ours.items():
            if link[key] == later[key]:
                assert value == link[key], (row.name, key)
        if link["addr_info"] == later["addr_info"]:
            assert [address_as_ip(address) for address in row.addresses] == link["addr_info"]


def address_as_ip(address: Any) -> dict[str, Any]:
    item = {
        "family": address.family,
        "local": address.address,
        "prefixlen": address.prefix,
        "scope": address.scope,
        "valid_life_time": address.valid_seconds,
        "preferred_life_time": address.preferred_seconds,
        **dict.fromkeys(address.flags, True),
    }
    if address.peer:
        item["address"] = address.peer
    if address.broadcast:
        item["broadcast"] = address.broadcast
    if address.label:
        item["label"] = address.label
    return item


@pytest.mark.parametrize("namespace", ["", "inner"])
def test_counters(guest: Guest, namespace: str) -> None:
    before, rows, after = bracketed(lambda: counters(guest, namespace), lambda: look(guest))
    assert isinstance(rows, list)
    seen = in_namespace(rows, namespace)
    assert seen.keys() == before.keys()
    for name, row in seen.items():
        if row.statistics is None:
            assert name in PRIVATE_COUNTERS
            assert guest.kernel.release.startswith("5.10.")
            continue
        for column, low in before[name].items():
            assert low <= getattr(row.statistics, column) <= after[name][column], (name, column)
    assert seen["lo"].statistics is not None
    assert namespace or seen["lo"].statistics.rx_packets > 0


def test_counters_that_are_not_read_are_said_to_be_unknown(
    guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = look(guest)
    for row in rows:
        assert (row.statistics is None) == bool(row.statistics_unknown)
    assert ifconfig.main(["-a", "--qemu", str(guest.pid)]) == 0
    notes = capsys.readouterr().err
    for row in rows:
        assert (row.statistics is None) == (f"the counters of {row.name} are not known: " in notes)
    assert ifconfig.main(["--ip", "--qemu", str(guest.pid)]) == 0
    assert capsys.readouterr().err == ""


def test_the_namespaces_and_what_links_them(guest: Guest) -> None:
    rows = look(guest)
    first = guest.run("readlink /proc/1/ns/net; ip netns exec inner readlink /proc/self/ns/net")
    initial, inner = (int(number) for number in re.findall(r"\d+", first))
    assert rows[0].namespace == initial
    assert {row.namespace for row in rows if row.namespace_name == "inner"} == {inner}
    assert len({row.namespace for row in rows}) == 3
    names = {(row.namespace, row.name): row for row in rows}
    vlan = names[initial, "eth0.42"]
    assert (vlan.kind, vlan.link_name, vlan.link_index) == ("vlan", "eth0", names[initial, "eth0"].index)
    assert names[initial, "dummy2"].master == "br0"
    outer, peer = names[initial, "veth0"], names[inner, "veth1"]
    if outer.link_index is not None:
        assert (outer.link_index, outer.link_namespace) == (peer.index, inner)
        assert (peer.link_index, peer.link_namespace) == (outer.index, initial)
        assert peer.link_namespace_id == 0


# The command


def run_ifconfig(guest: Guest, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert ifconfig.main([*arguments, "--qemu", str(guest.pid)]) == code
    return capsys.readouterr().out


def test_the_same_lines_as_ip_addr(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    before, text, after = bracketed(
        lambda: guest.run("ip addr; echo 'netns: inner'; ip -netns inner addr").splitlines(),
        lambda: run_ifconfig(guest, capsys, "--ip"),
    )
    assert isinstance(text, str)
    expected = [line.rstrip() for line in before]
    seen = [re.sub(r"(netns: inner) .*", r"\1", line) for line in text.splitlines()]
    if before == after and not guest.kernel.release.startswith("5.10."):
        # The third namespace, which has no name, comes behind these.
        assert seen[: len(expected)] == expected
    else:
        assert {
            line for line in expected if line in after and "veth" not in line and "netns" not in line
        } <= set(seen)


def _ordered(lines: list[str]) -> list[str]:
    """With IPv6 addresses sorted: ifconfig gets them by their hash."""
    positions = [index for index, line in enumerate(lines) if "inet6" in line]
    found = list(lines)
    for group in (list(items) for _, items in groupby(positions, key=lambda i: i - positions.index(i))):
        found[group[0] : group[-1] + 1] = sorted(found[group[0] : group[-1] + 1])
    return found


def _lines(guest: Guest, command: str) -> list[str]:
    return guest.run(command).splitlines()


def test_the_same_lines_as_ifconfig(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    call = install(guest, "/usr/sbin/ifconfig")
    for options in ("", "-a", "eth0", "eth0:1", "-s -a"):
        before, text, after = bracketed(
            partial(_lines, guest, f"{call} {options}"),
            partial(run_ifconfig, guest, capsys, *options.split(), "--netns", "initial"),
        )
        assert isinstance(text, str)
        seen = text.splitlines()
        # ifconfig has no way to show a second address without a name of its own.
        seen = [line for line in seen if "10.9.0.1" not in line]
        if before == after and not guest.kernel.release.startswith("5.10."):
            assert _ordered(seen) == _ordered(before)
        else:
            stable = {line for line in before if line in after}
            known = {line for line in stable if "X" not in line and not line.startswith(PRIVATE_COUNTERS)}
            assert known | {line for line in stable if "flags=" in line} <= set(seen)


def test_an_interface_that_is_not_there_is_a_negative_answer(
    guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ifconfig(guest, capsys, "eth7", code=1) == ""
    assert run_ifconfig(guest, capsys, "--netns", "nowhere", code=1) == ""
    assert "dummy0" not in run_ifconfig(guest, capsys)
    assert run_ifconfig(guest, capsys, "dummy0").startswith("dummy0: flags=130<BROADCAST,NOARP>  mtu 1500\n")


def test_what_is_not_there_is_said(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (["eth7"], "there is no interface eth7"),
        (["--netns", "outer"], "there is no network namespace outer"),
        (["--netns", "inner", "eth0"], "there is no interface eth0 in network namespace inner"),
    ):
        assert ifconfig.main([*arguments, "--qemu", str(guest.pid)]) == 1
        assert capsys.readouterr() == ("", f"virt-ifconfig: {guest.name}: {sentence}\n")


def test_verbose_says_how_the_kernel_was_found(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    assert ifconfig.main(["lo", "--qemu", str(guest.pid)]) == 0
    assert capsys.readouterr().err == ""
    assert ifconfig.main(["-v", "lo", "--qemu", str(guest.pid)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3
    assert any("its banner is at 0x" in line for line in said)
