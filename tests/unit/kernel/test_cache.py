"""The cache of learned layouts: what is kept, what is believed, and when it cannot be written."""

from __future__ import annotations

import json
import os
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kernel.synthetic import Guest
from virtscope.kernel import KernelCache, find_kernel
from virtscope.kernel.cache import Learned, guest_file
from virtscope.kernel.layouts import Member


def learned() -> Learned:
    found = Learned()
    found.symbols = {"init_task": (0x1234, False), "runqueues": (0x2000, True), "absent": None}
    found.near = {0x100: (0xF0, "schedule")}
    found.sizes = {"task_struct": 9792, "absent": None}
    found.members = {
        "task_struct": {
            "pid": Member(2416, 4, "s"),
            "comm": Member(2976, 16, "c", 16),
            "in_execve": Member(2344, 1, "f", None, None, 2, 1),
            "signal": Member(3072, 8, "p", None, "signal_struct"),
            "state": None,
        }
    }
    found.enums = {"pid_type": {"PIDTYPE_PID": 0, "NEGATIVE": -1}, "absent": None}
    found.enumerators = {"LOG_CONT": 8, "absent": None}
    return found


def through_json(found: Learned) -> Any:
    return json.loads(json.dumps(found.to_json()))


def test_what_is_learned_survives() -> None:
    assert vars(Learned.from_json(through_json(learned()))) == vars(learned())


def damaged(path: list[Any], value: Any) -> Any:
    data = through_json(learned())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["symbols", "init_task"], "here"),
        (["symbols", "init_task"], [1 << 70, False]),
        (["symbols", "init_task"], [True, False]),
        (["near", "0x100"], [1, 2]),
        (["near", "256"], [1, "n" * 1000]),
        (["sizes", "task_struct"], 1 << 40),
        (["sizes", "task_struct"], -1),
        (["sizes", "task_struct"], 1.5),
        (["members"], []),
        (["members", "task_struct"], [1]),
        (["members", "task_struct", "pid"], [2416, 4, "s"]),
        (["members", "task_struct", "pid", 0], 9790),
        (["members", "task_struct", "pid", 0], -8),
        (["members", "task_struct", "pid", 1], 1 << 60),
        (["members", "task_struct", "pid", 2], "sss"),
        (["members", "task_struct", "pid", 2], []),
        (["members", "task_struct", "comm", 3], 5),
        (["members", "task_struct", "comm", 3], 1 << 40),
        (["members", "task_struct", "in_execve", 6], 1 << 20),
        (["members", "task_struct", "signal", 4], {}),
        (["enums", "pid_type"], [0]),
        (["enums", "pid_type", "PIDTYPE_PID"], "zero"),
        (["enumerators", "LOG_CONT"], None.__class__.__name__),
    ],
)
def test_what_is_damaged_is_not_believed(path: list[Any], value: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        Learned.from_json(damaged(path, value))


def test_files_of_nonsense_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    memory = Guest(identity="1:2:3").build()
    kernel = find_kernel(memory, cache=KernelCache(str(folder)))
    kernel.struct("task_struct").offset("pid")
    kernel.close()
    files = sorted(folder.iterdir())
    assert [file.name.split("-")[0] for file in files] == ["guest", "kernel"]
    for nonsense in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"format": 1}',
        b"\xff\xfe",
        b'{"format": 999}',
    ):
        for file in files:
            file.write_bytes(nonsense)
        again = find_kernel(memory, cache=KernelCache(str(folder)))
        assert again.struct("task_struct").offset("pid") == 24
        again.close()
    content = json.loads(files[1].read_bytes())
    values: tuple[Any, ...] = (None, {}, -1, [1, 2])
    for key in list(content):
        for value in values:
            files[1].write_text(json.dumps({**content, key: value}))
            again = find_kernel(memory, cache=KernelCache(str(folder)))
            assert again.struct("task_struct").offset("pid") == 24, (key, value)
            again.close()
            again = find_kernel(memory, cache=KernelCache(str(folder)))
            assert again.symbol("filler_sym_00001") > 0, (key, value)
            again.close()


def test_hints_of_nonsense_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    memory = Guest(identity="1:2:3").build()
    find_kernel(memory, cache=KernelCache(str(folder))).close()
    hint = folder / guest_file("1:2:3")
    content = json.loads(hint.read_bytes())
    for key in content:
        for value in (None, [], "kernel-/../../x", [0] * 6, [1 << 63] * 6, [-1] * 6, 12):
            hint.write_text(json.dumps({**content, key: value}))
            again = find_kernel(memory, cache=KernelCache(str(folder)))
            assert again.struct("task_struct").offset("pid") == 24


def test_names_cannot_leave_the_folder() -> None:
    assert "/" not in guest_file("../../etc/passwd\0 1:2")


def test_private_to_its_user(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "kernels"
    find_kernel(Guest().build(), cache=KernelCache(str(folder))).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())
    folder.chmod(0o755)
    KernelCache(str(folder)).save("kernel-x.json", {})
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(str(tmp_path / "file" / "kernels"))
    kernel = find_kernel(Guest(identity="1:2:3").build(), cache=cache)
    assert kernel.struct("task_struct").offset("pid") == 24
    kernel.close()
    assert kernel.cache_note is not None
    assert "nothing is kept" in kernel.cache_note


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder, target = tmp_path / "kernels", tmp_path / "target"
    folder.mkdir()
    target.write_text('{"format": 1, "trap": true}')
    (folder / "kernel-a.json").symlink_to(target)
    cache = KernelCache(str(folder))
    assert cache.load("kernel-a.json") is None
    cache.save("kernel-a.json", {"mine": 1})
    assert "trap" in target.read_text()
    assert cache.load("kernel-a.json") == {"format": 1, "mine": 1}
    os.mkfifo(folder / "kernel-b.json")
    assert cache.load("kernel-b.json") is None


def test_a_link_in_place_of_the_folder_changes_nothing_behind_it(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    (tmp_path / "kernels").symlink_to(target)
    cache = KernelCache(str(tmp_path / "kernels"))
    cache.save("kernel-a.json", {"mine": 1})
    assert cache.note is not None
    assert target.stat().st_mode & 0o777 == 0o755
    assert not list(target.iterdir())


def test_another_users_files_are_not_believed(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root: giving a file to another user")
    folder = tmp_path / "kernels"
    cache = KernelCache(str(folder))
    cache.save("kernel-a.json", {"mine": 1})
    os.chown(folder / "kernel-a.json", 12345, 12345)
    assert cache.load("kernel-a.json") is None
    os.chown(folder, 12345, 12345)
    cache.save("kernel-c.json", {"mine": 1})
    assert not (folder / "kernel-c.json").exists()
    assert cache.note is not None
    assert "belongs to another user" in cache.note


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = KernelCache(str(tmp_path / "kernels"), limit_bytes=40_000)
    for number in range(8):
        cache.save(f"kernel-{number}.json", {"fill": "x" * 8000})
        os.utime(tmp_path / "kernels" / f"kernel-{number}.json", (1000 + number, 1000 + number))
        if number == 3:
            cache.touch("kernel-0.json")  # used: now the newest
    left = {file.name for file in (tmp_path / "kernels").iterdir()}
    assert left == {"kernel-0.json", "kernel-5.json", "kernel-6.json", "kernel-7.json"}


def test_no_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "relative")
    cache = KernelCache()
    assert cache.note is not None
    cache.save("kernel-a.json", {})
    assert cache.load("kernel-a.json") is None


def _learn(folder: str, member: str) -> None:
    kernel = find_kernel(Guest().build(), cache=KernelCache(folder))
    kernel.struct("task_struct").offset(member)
    kernel.close()


def test_concurrent_runs(tmp_path: Path) -> None:
    folder = str(tmp_path / "kernels")
    context = get_context("fork")
    runs = [
        context.Process(target=_learn, args=(folder, member)) for member in ("pid", "tgid", "comm", "tasks")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * 4
    (name,) = os.listdir(folder)
    content = KernelCache(folder).load(name)
    assert content is not None
    Learned.from_json(content["learned"])  # whole, whoever came last
