"""What a sandbox is asked for, and the setup operations that come of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virtscope.errors import UsageError
from virtscope.sandbox import Sandbox, cgroups, execution, parse_size, plan, runtime, session
from virtscope.sandbox.definition import Definition, Limits

MACHINE = plan.Base(machine=True, transport="9p")
SHARED = plan.Base(machine=False, transport="bind")


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("4k", 4096), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("1gb", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "12X", "-1", "1.2.3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_builder_leaves_the_original_alone() -> None:
    plain = Sandbox()
    changed = plain.with_ram("/tmp/x").with_network("user").with_limits(cpus=2)
    assert plain.definition == Definition()
    assert (
        len(changed.definition.mounts),
        changed.definition.network.kind,
        changed.definition.limits.cpus,
    ) == (1, "user", 2)


def test_root_is_mounted_read_only_before_anything_else() -> None:
    first = next(record for record in plan.operations(Definition(), MACHINE) if record[0] == "mount")
    assert first[3] == "9p"
    assert first[4] == plan.MS_RDONLY


@pytest.mark.parametrize("base", [MACHINE, SHARED])
def test_sources_are_taken_hold_of_before_they_are_covered(base: plan.Base, tmp_path: Path) -> None:
    definition = Sandbox().with_bind("/tmp/here", str(tmp_path)).definition
    records = plan.operations(definition, base)
    grabbed = next(
        n for n, record in enumerate(records) if record[0] == "grab" and str(tmp_path) in str(record[2])
    )
    covered = next(n for n, record in enumerate(records) if record[0] == "mount" and record[2] == "/tmp")
    placed = next(n for n, record in enumerate(records) if record[0] == "place" and record[2] == "/tmp/here")
    assert grabbed < covered < placed or base is SHARED
    assert grabbed < placed


def test_overlay_comes_by_itself_where_the_host_has_no_such_place() -> None:
    assert plan.needs_overlay(Sandbox().with_ram("/no-such-place").definition)
    assert not plan.needs_overlay(Sandbox().with_ram("/tmp/place").definition)
    assert not plan.needs_overlay(Sandbox().with_ram("/usr").definition)


def test_relative_places_are_refused() -> None:
    with pytest.raises(UsageError):
        Sandbox().with_ram("relative")


def test_dry_run_names_the_machine() -> None:
    definition = Sandbox().on("namespaces:")
    assert "namespaces" in definition.dry_run()
    with pytest.raises(UsageError):
        Sandbox().on("nonsense:").dry_run()


def test_leftovers_are_told_by_their_names() -> None:
    assert not runtime.is_left_over(runtime.own_name())
    assert runtime.is_left_over(f"{os.getpid()}-1-abcdef")
    assert runtime.is_left_over("4194304-12345-abcdef")
    assert not runtime.is_left_over("something-else")


def test_garbage_of_dead_owners_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    mine = Path(runtime.make_folder())
    dead = mine.with_name("4194304-12345-abcdef")
    dead.mkdir()
    (dead / "channel").touch()
    runtime.collect_garbage()
    assert mine.exists()
    assert not dead.exists()


def test_limits_become_control_files() -> None:
    limits = Limits(memory=1 << 20, pids=10, cpu_shares=512, cpus=2)
    assert cgroups.wanted(limits, machine=False) == {
        "memory": {"memory.max": "1048576"},
        "pids": {"pids.max": "10"},
        "cpu": {"cpu.weight": "50", "cpu.max": "200000 100000"},
    }
    assert cgroups.wanted(limits, machine=True) == {"cpu": {"cpu.weight": "50"}}


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        ((0, 3), 3),
        ((1, 9), 137),
        ((2, ord("x") | 2 << 8), 127),
        ((2, ord("x") | 13 << 8), 126),
        ((2, ord("c") | 2 << 8), 125),
    ],
)
def test_outcomes(frame: tuple[int, int], status: int) -> None:
    assert execution.outcome(*frame).status == status


def test_words_of_a_guest_cannot_reach_the_terminal() -> None:
    assert "\x1b" not in session.printable(b"\x1b]0;title\x07 \xff")
