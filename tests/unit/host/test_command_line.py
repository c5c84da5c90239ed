"""What QEMU command lines say: by hand, by libvirt, old and new ways to write the same."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.host.command_line import (
    MonitorSocket,
    parse_command_line,
    parse_options,
    parse_size,
)

LIBVIRT = """
-name guest=web1,debug-threads=on -S
-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/master-key.aes"}'
-machine pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -m size=4194304k
-object '{"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":4294967296}'
-uuid C27550BF-e3e7-48d6-8d75-fe26471bd28c -display none -no-user-config -nodefaults
-chardev socket,id=charmonitor,fd=31,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control
"""


def test_as_libvirt_writes_it() -> None:
    line = parse_command_line(shlex.split(LIBVIRT))
    assert line.name == "web1"
    assert line.uuid == "c27550bf-e3e7-48d6-8d75-fe26471bd28c"
    assert line.ram_size == 4 << 30
    assert not line.can_grow
    assert line.machine == "pc-q35-7.2"
    assert line.ram_backends == ("pc.ram",)
    assert line.backends["pc.ram"].kind == "memfd"
    assert line.monitors == ()
    assert line.is_managed


def test_as_nobody_writes_it() -> None:
    line = parse_command_line([])
    assert line.name is None
    assert line.uuid is None
    assert line.ram_size == 128 << 20
    assert line.machine == ""
    assert line.ram_backends == ()
    assert not line.is_managed


@pytest.mark.parametrize(
    ("options", "name"),
    [("-name web1", "web1"), ("-name guest=a,process=b", "a"), ("--name 'a,,b'", "a,b"), ("-name x=y", None)],
)
def test_name(options: str, name: str | None) -> None:
    assert parse_command_line(shlex.split(options)).name == name


@pytest.mark.parametrize(
    ("options", "size", "can_grow"),
    [
        ("-m 512", 512 << 20, False),
        ("-m 2G", 2 << 30, False),
        ("-m 1.5g", 3 << 29, False),
        ("-m size=1048576k", 1 << 30, False),
        ("-m 1G,slots=4,maxmem=8G", 1 << 30, True),
        ("-m 256 -m 512", 512 << 20, False),
        ("-m nonsense", 128 << 20, False),
    ],
)
def test_ram_size(options: str, size: int, can_grow: bool) -> None:
    line = parse_command_line(shlex.split(options))
    assert (line.ram_size, line.can_grow) == (size, can_grow)


@pytest.mark.parametrize(
    ("options", "machine"),
    [
        ("-M q35", "q35"),
        ("-machine type=pc,accel=kvm", "pc"),
        ("-machine accel=tcg -M microvm,rtc=on", "microvm"),
        ("-machine usb=off", ""),
    ],
)
def test_machine(options: str, machine: str) -> None:
    assert parse_command_line(shlex.split(options)).machine == machine


def test_numa_nodes_in_their_order_and_not_that_of_the_line() -> None:
    line = parse_command_line(
        shlex.split(
            "-m 3G -object memory-backend-ram,id=m0,size=1G "
            "-object memory-backend-file,id=m1,size=2G,mem-path=/x "
            "-numa node,nodeid=1,memdev=m0 -numa node,nodeid=0,memdev=m1 -numa cpu,node-id=0,socket-id=0"
        )
    )
    assert line.ram_backends == ("m1", "m0")
    assert line.backends["m1"].path == "/x"
    assert line.backends["m1"].size == 2 << 30


def test_numa_nodes_without_numbers_and_without_backends() -> None:
    backends = "-object memory-backend-ram,id=a,size=1G -object memory-backend-ram,id=b,size=1G "
    line = parse_command_line(shlex.split(backends + "-numa node,memdev=a -numa node,memdev=b"))
    assert line.ram_backends == ("a", "b")
    assert line.ram_size == 2 << 30
    assert parse_command_line(shlex.split("-numa node,mem=1G -m 1G")).ram_backends == ()
    assert parse_command_line(shlex.split("-numa node,memdev=missing -m 1G")).ram_backends == ()


def test_mem_path() -> None:
    line = parse_command_line(shlex.split("-m 1G -mem-path /dev/hugepages"))
    assert line.ram_backends == ("",)
    assert (line.backends[""].kind, line.backends[""].path) == ("file", "/dev/hugepages")


@pytest.mark.parametrize(
    ("options", "monitors"),
    [
        ("-qmp unix:/run/q,server=on,wait=off", [MonitorSocket("/run/q")]),
        ("-qmp unix:q.sock,server,nowait", [MonitorSocket("q.sock")]),
        ("-qmp unix:/run/a,,b,server=on", [MonitorSocket("/run/a,b")]),
        ("-qmp-pretty unix:path=/run/q,server=on", [MonitorSocket("/run/q")]),
        ("-chardev socket,id=c,path=/run/q,server=on -mon c,mode=control", [MonitorSocket("/run/q")]),
        (
            "-mon chardev=c,mode=control -chardev socket,path=q,id=c,abstract=on,server=on",
            [MonitorSocket("q", True)],
        ),
        ("-chardev socket,id=c,path=/run/q,server=on -qmp chardev:c", [MonitorSocket("/run/q")]),
        ("-chardev socket,id=c,path=/run/q,server=on -mon chardev=c,mode=readline", []),
        ("-chardev socket,id=c,path=/run/q -mon chardev=c,mode=control", []),
        ("-qmp unix:/run/q", []),
        ("-qmp tcp:127.0.0.1:4444,server=on", []),
        ("-qmp stdio", []),
        ("-monitor unix:/run/h,server=on", []),
        ("-qmp unix:/a,server=on -qmp unix:/b,server=on", [MonitorSocket("/a"), MonitorSocket("/b")]),
    ],
)
def test_monitors(options: str, monitors: list[MonitorSocket]) -> None:
    assert list(parse_command_line(shlex.split(options)).monitors) == monitors


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a=1,b", {"a": "1", "b": "on"}),
        ("first,a=1", {"id": "first", "a": "1"}),
        ("a=x,,y,b=2", {"a": "x,y", "b": "2"}),
        ('{"a": "1", "b": true, "c": 5, "d": [1]}', {"a": "1", "b": "on", "c": "5"}),
        ('{"a": ', {}),
        ("", {"id": ""}),
    ],
)
def test_options(text: str, options: dict[str, str]) -> None:
    assert parse_options(text, "id") == options


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("7", 7), ("2k", 2048), ("1M", 1 << 20), ("0x10", 16), ("1.5G", 3 << 29), ("4GiB", 4 << 30),
        ("", None), ("G", None), ("-1", None), ("1Z", None), ("9" * 500, None),
    ],
)  # fmt: skip
def test_size(text: str, size: int | None) -> None:
    assert parse_size(text) == size


WORDS = st.sampled_from(
    [
        "-m",
        "-M",
        "-object",
        "-numa",
        "-qmp",
        "-mon",
        "-chardev",
        "-name",
        "-mem-path",
        "{",
        "memory-backend-ram",
    ]
)


@given(st.lists(WORDS | st.text(alphabet='abm=,:{}"[]0159-\0é', max_size=30), max_size=12))
def test_no_command_line_is_an_error(arguments: list[str]) -> None:
    assert parse_command_line(arguments).ram_size >= 0
