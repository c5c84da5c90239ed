"""Copying out and tar streams of filesystems that are damaged, hostile, or interrupted."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.recipes.made_up import DIRECTORY, FILE, LINK, SOCKET, File, MadeUp, collect
from virtscope.errors import FormatError, ReadFailed, UsageError
from virtscope.extract.copy_out import copy_out
from virtscope.extract.tar_out import tar_out
from virtscope.fs.tree import Tree

BROKEN = FormatError("made-up", "broken")


def tree(*files: File) -> Tree:
    """A directory of these files: a, b, c..."""
    inodes = dict(enumerate(files, 2))
    names = [(bytes([ord("a") + index]), number) for index, number in enumerate(inodes)]
    return Tree(MadeUp({1: File(DIRECTORY, names=names), **inodes}))


def tarred(top: Tree) -> tuple[tarfile.TarFile, list[str]]:
    problems, problem = collect()
    out = io.BytesIO()
    tar_out(top, top.root, out, problem=problem)
    out.seek(0)
    return tarfile.open(fileobj=out), problems


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (File(FILE, b"x" * 100, damage=BROKEN), "made-up: broken"),
        (File(FILE, b"x" * 100, damage=BROKEN, damaged="extents"), "made-up: broken"),
        (File(FILE, b"x" * 100, damage=ReadFailed("the disk is gone")), "the disk is gone"),
        (File(FILE, damage=BROKEN, damaged="stat"), "made-up: broken"),
        (File(LINK, b"a\0b"), "impossible target"),
        (File(LINK, b""), "impossible target"),
        (File(LINK, b"x" * 5000), "File name too long"),
    ],
)
def test_what_cannot_be_copied_leaves_nothing_and_costs_no_other(
    tmp_path: Path, file: File, why: str
) -> None:
    problems, problem = collect()
    copy_out(tree(file, File(FILE, b"fine")), b"/", str(tmp_path), problem=problem)
    assert os.listdir(tmp_path / "root") == ["b"]
    assert (tmp_path / "root/b").read_bytes() == b"fine"
    assert len(problems) == 1
    assert problems[0].startswith("/a was not copied: ")
    assert why in problems[0]


def test_an_interrupt_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    _, problem = collect()
    with pytest.raises(KeyboardInterrupt):
        copy_out(tree(File(FILE, b"x", damage=KeyboardInterrupt())), b"/", str(tmp_path), problem=problem)
    assert os.listdir(tmp_path / "root") == []


def test_a_write_that_takes_only_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda out, data, offset: whole(out, bytes(data)[:7], offset))
    content = bytes(range(100))
    copy_out(tree(File(FILE, content)), b"/a", str(tmp_path), problem=pytest.fail)
    assert (tmp_path / "a").read_bytes() == content


def test_what_is_there_already_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="has a a already"):
        copy_out(tree(File(FILE, b"x")), b"/a", str(tmp_path), problem=pytest.fail)
    assert not (tmp_path / "elsewhere").exists()


def test_special_bits_and_files_stay_behind(tmp_path: Path) -> None:
    problems, problem = collect()
    copy_out(tree(File(0o106755, b"x"), File(SOCKET)), b"/", str(tmp_path), problem=problem)
    assert (tmp_path / "root/a").stat().st_mode == 0o100755
    assert problems == ["/b was left out: it is a socket"]


def test_a_tar_stream_stays_whole_where_a_file_cannot_be_read() -> None:
    tar, problems = tarred(tree(File(FILE, b"x" * 1000, damage=BROKEN), File(FILE, b"fine")))
    assert tar.getnames() == [".", "./a", "./b"]
    assert tar.extractfile("./a").read() == bytes(1000)  # type: ignore[union-attr]
    assert tar.extractfile("./b").read() == b"fine"  # type: ignore[union-attr]
    assert problems == ["/a has zeros where it cannot be read: made-up: broken"]


def test_no_tar_member_links_to_one_that_was_left_out() -> None:
    one = File(FILE, b"x", links=2, damage=BROKEN, damaged="extents")
    inodes = {1: File(DIRECTORY, names=[(b"a", 2), (b"b", 2)]), 2: one}
    tar, problems = tarred(Tree(MadeUp(inodes)))
    assert tar.getnames() == ["."]
    assert problems == ["/a: made-up: broken", "/b: made-up: broken"]
    one.damage = None
    tar, problems = tarred(Tree(MadeUp(inodes)))
    assert tar.getmember("./b").linkname == "./a"


def test_lost_attributes_do_not_cost_the_file() -> None:
    strange = {"user.a=b%": b"1", "user.\udcff": b"2"}
    tar, problems = tarred(
        tree(File(FILE, b"x", damage=BROKEN, damaged="xattrs"), File(FILE, b"y", xattrs=strange))
    )
    assert tar.extractfile("./a").read() == b"x"  # type: ignore[union-attr]
    headers = tar.getmember("./b").pax_headers
    assert headers["SCHILY.xattr.user.a%3Db%25"] == "1"
    assert problems == [
        "/a has lost its extended attributes: made-up: broken",
        "/b has lost the attribute 'user.\\udcff': it is no UTF-8",
    ]


def test_links_no_system_can_have_are_left_out_of_a_tar_stream() -> None:
    tar, problems = tarred(tree(File(LINK, b"a\0b"), File(LINK, b"fine")))
    assert tar.getnames() == [".", "./b"]
    assert "impossible target" in problems[0]
