"""virt-dmesg and virt-uname against the guest's own kernel log and uname."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

import virtscope
from lab import Guest
from lab.kernels import MATRIX
from tests.vm.views_truth import install, kernel_messages
from virtscope.cli import dmesg, uname
from virtscope.kernel.log import LogRecord, follow
from virtscope.kernel.log_names import FACILITIES, LEVELS

MARKER = "lab: a record with two lines\nthe second line"


@pytest.fixture(scope="session")
def records(guest: Guest) -> list[tuple[str, str, list[str]]]:
    """The guest's /dev/kmsg: (prefix, text, KEY=VALUE pairs) of each record, with some of all kinds added."""
    guest.run(f"printf '<4>{MARKER}\\n' > /dev/kmsg")
    guest.run("printf '<13>lab: \\033[31mcontrol\\001 \\377 characters\\n' > /dev/kmsg")
    found: list[tuple[str, str, list[str]]] = []
    for line in kernel_messages(guest):
        if line.startswith(" "):
            found[-1][2].append(line[1:])
        else:
            prefix, _, text = line.partition(";")
            found.append((prefix, unescaped(text), []))
    return found


def unescaped(text: str) -> str:
    """What /dev/kmsg writes as \\xNN."""
    raw = re.sub(
        rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode(errors="surrogateescape")
    )
    return raw.decode(errors="surrogateescape")


def look(guest: Guest) -> list[LogRecord]:
    with virtscope.open(qemu=str(guest.pid)) as outside:
        rows = list(outside.log())
        assert outside.notes == ()
    return rows


def test_every_record(guest: Guest, records: list[tuple[str, str, list[str]]]) -> None:
    rows = {row.sequence: row for row in look(guest)}
    assert len(records) > 200
    for prefix, text, pairs in records:
        priority, sequence, microseconds, flag, *more = prefix.split(",")
        row = rows[int(sequence)]
        assert row.text == text
        assert row.level == LEVELS[int(priority) & 7]
        assert row.facility == FACILITIES[int(priority) >> 3]
        assert row.since_boot_ns // 1000 == int(microseconds)
        assert [f"{key}={value}" for key, value in row.fields.items()] == pairs
        assert row.is_continuation == (flag == "c")
        if more:
            assert f"caller={row.caller}" in more
    assert any(pairs for _prefix, _text, pairs in records)
    assert any(row.text == MARKER for row in rows.values())


def test_records_come_in_order_and_none_is_missing(guest: Guest) -> None:
    rows = look(guest)
    assert [row.sequence for row in rows] == list(range(rows[0].sequence, rows[-1].sequence + 1))
    assert not any(row.lost for row in rows)


def test_wall_clock_times(guest: Guest) -> None:
    before, after = map(float, guest.run("date +%s; echo lab: now > /dev/kmsg; date +%s").split())
    row = [row for row in look(guest) if row.text == "lab: now"][-1]
    assert row.time is not None
    assert before - 5 < row.time.timestamp() < after + 5


def run_dmesg(guest: Guest, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert dmesg.main([*arguments, "--qemu", str(guest.pid)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("options", ["", "-x", "-r", "-t", "-l warn,err", "-f user", "-T", "-k", "-u"])
def test_the_same_lines_as_dmesg(guest: Guest, capsys: pytest.CaptureFixture[str], options: str) -> None:
    call = install(guest, "/usr/bin/dmesg")

    def texts() -> list[str]:
        lines = guest.run(f"{call} {options}").splitlines()
        return [line.partition("]")[2] for line in lines] if options == "-T" else lines

    for _ in range(5):
        before = texts()
        seen = run_dmesg(guest, capsys, *options.split())
        expected = guest.run(f"{call} {options}").splitlines()
        if before == texts():
            break  # else something was logged meanwhile
    else:
        pytest.fail("the guest never stops logging")
    if options == "-T":
        # dmesg reads two clocks to tell the time of boot, and may have to wait between them.
        assert len(seen) == len(expected)
        for ours, theirs in zip(seen, expected, strict=True):
            if ours.startswith("[") and "control" not in ours:
                assert ours.partition("]")[2] == theirs.partition("]")[2]
                times = [line[1 : line.index("]")] for line in (ours, theirs)]
                parsed = [datetime.strptime(text, "%a %b %d %H:%M:%S %Y") for text in times]
                assert abs((parsed[0] - parsed[1]).total_seconds()) <= 2
    else:
        # Control characters look different on purpose, and dmesg -r has facilities above 0 wrong.
        left_out = "control" if options != "-r" else r"control|<\d+>\[.*\] lab:|second line|noise from"
        seen, expected = (
            [line for line in lines if not re.search(left_out, line)] for lines in (seen, expected)
        )
        assert seen == expected


def test_control_characters_cannot_reach_the_terminal(
    guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.run("printf '<13>lab: \\033[31mcontrol\\001 \\377 characters\\n' > /dev/kmsg")
    (line,) = {line.split("] ")[1] for line in run_dmesg(guest, capsys) if " characters" in line}
    assert line == "lab: \\x1b[31mcontrol\\x01 \\xff characters"


@contextlib.contextmanager
def following(guest: Guest, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    script = "import sys; from virtscope.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "dmesg", *arguments, "--qemu", str(guest.pid)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[bytes], seconds: float = 300) -> str:
    assert process.stdout is not None
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
        assert ready, "nothing came"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, process.stderr.read() if process.stderr else ""
        line += byte
    return line.decode().rstrip("\n")


def test_following(guest: Guest) -> None:
    with following(guest, "-W") as process:
        assert process.stdout is not None
        # Only what comes after it has begun is shown, and when that is, is seen by what it shows.
        deadline = time.monotonic() + 300
        while not select.select([process.stdout], [], [], 0.5)[0]:
            assert time.monotonic() < deadline
            assert process.poll() is None
            guest.run("echo lab: has it begun > /dev/kmsg")
        for number in range(3):
            guest.run(f"echo lab: followed {number} > /dev/kmsg")
            line = next_line(process)
            while line.endswith("lab: has it begun"):
                line = next_line(process)
            assert line.endswith(f"lab: followed {number}")


KERNELS = ("6.1", *(pytest.param(name, marks=pytest.mark.matrix) for name in MATRIX if name != "6.1"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_flooded_log(boot: Callable[..., Guest], kernel: str) -> None:
    """After many times its size, the ring holds what the guest itself still reads from it."""
    guest = boot(kernel, setup="echo on > /proc/sys/kernel/printk_devkmsg")
    last = look(guest)[-1].sequence
    for length in (10, 700, 90):
        text = "x" * length
        guest.run(
            f"i=0; while [ $i -lt 1500 ]; do echo lab: $i {text}; i=$((i+1)); done > /dev/kmsg", timeout=600
        )
        lines = [line.partition(";") for line in kernel_messages(guest) if not line.startswith(" ")]
        seen = {row.sequence: row.text for row in look(guest)}
        assert seen == {int(prefix.split(",")[1]): unescaped(text) for prefix, _, text in lines}
    with virtscope.open(qemu=str(guest.pid)) as outside:
        row = next(follow(outside.kernel, after=last, interval=0.05))
        assert row.sequence == min(seen)
        assert row.lost == row.sequence - last - 1 > 0


def test_uname(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ("", "-a", "-s", "-n", "-r", "-v", "-m", "-o", "-snrvm", "-mr"):
        assert uname.main([*options.split(), "--qemu", str(guest.pid)]) == 0
        assert capsys.readouterr().out == guest.run(f"uname {options}"), options
    uname.main(["--json", "--qemu", str(guest.pid)])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["banner"] == guest.run("cat /proc/version").rstrip("\n")
    assert row["nodename"] == "lab-guest"
    notes = guest.execute("cat /sys/kernel/notes").stdout
    assert bytes.fromhex(row["build_id"]) in notes
