"""The directory tree of a guest: paths, links, mounts, walks, and what damage costs."""

from __future__ import annotations

import pytest

from tests.recipes.made_up import DIRECTORY, FILE, LINK, File, MadeUp, collect
from virtscope.errors import FormatError, GuestPathError, ReadFailed
from virtscope.fs.tree import Tree


def system() -> MadeUp:
    return MadeUp(
        {
            1: File(DIRECTORY, names=[(b"etc", 2), (b"up", 3), (b"loop", 4), (b"f", 5), (b"mnt", 6)]),
            2: File(DIRECTORY, names=[(b"passwd", 5), (b"again", 1)]),
            3: File(LINK, b"../../../etc"),
            4: File(LINK, b"/loop"),
            5: File(FILE, b"root"),
            6: File(DIRECTORY),
        }
    )


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        (b"/etc/passwd", b"/etc/passwd"),
        (b"etc//./passwd", b"/etc/passwd"),
        (b"/up/passwd", b"/etc/passwd"),
        (b"/../../etc", b"/etc"),
        (b"/etc/../f", b"/f"),
        (b"", b"/"),
    ],
)
def test_paths_stay_inside(path: bytes, leads_to: bytes) -> None:
    assert Tree(system()).resolve(path).path == leads_to


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"/loop", "circle"),
        (b"/f/x", "/f is not a directory"),
        (b"/nosuch", "there is no such file"),
    ],
)
def test_paths_that_lead_nowhere(path: bytes, why: str) -> None:
    with pytest.raises(GuestPathError, match=why):
        Tree(system()).resolve(path)


def test_a_link_at_the_end_is_followed_only_if_asked() -> None:
    tree = Tree(system())
    assert tree.resolve(b"/up", follow=False).inode == 3
    assert tree.resolve(b"/up").inode == 2


def test_mounts_are_crossed_and_bad_ones_noted() -> None:
    other = MadeUp({1: File(DIRECTORY, names=[(b"x", 2)]), 2: File(FILE)})
    tree = Tree(system(), {b"/mnt": other, b"/f": other, b"/nosuch": other})
    assert tree.resolve(b"/mnt/x").filesystem is other
    assert tree.resolve(b"/mnt/..").path == b"/"
    assert tree.notes == [
        "nothing was mounted on /f: /f: this is not a directory",
        "nothing was mounted on /nosuch: /nosuch: there is no such file or directory",
    ]


def test_a_damaged_mount_point_costs_its_mount_only() -> None:
    damaged = system()
    damaged._inodes[6] = File(DIRECTORY, damage=FormatError("made-up", "broken"), damaged="stat")
    tree = Tree(damaged, {b"/mnt": system()})
    assert tree.notes == ["nothing was mounted on /mnt: made-up: broken"]
    assert tree.resolve(b"/f").inode == 5


def test_a_walk_enters_nothing_twice_and_says_so() -> None:
    problems, problem = collect()
    tree = Tree(system())
    walked = [directory.path for directory, _ in tree.walk(tree.root, problem=problem)]
    assert walked == [b"/", b"/etc", b"/mnt"]
    assert problems == ["/etc/again was left out: it is another name of a directory"]


def test_a_walk_goes_on_after_damage_if_it_can_tell() -> None:
    broken = MadeUp(
        {
            1: File(DIRECTORY, names=[(b"a", 2), (b"b", 3), (b"gone", 9), (b"../x", 4), (b"c", 4)]),
            2: File(DIRECTORY, names=[(b"first", 4)], damage=FormatError("made-up", "torn")),
            3: File(DIRECTORY, damage=ReadFailed("the disk is gone")),
            4: File(FILE),
        }
    )
    problems, problem = collect()
    tree = Tree(broken)
    walked = {directory.path: inside for directory, inside in tree.walk(tree.root, problem=problem)}
    assert list(walked) == [b"/", b"/a", b"/b"]
    assert [node.path for node in walked[b"/"]] == [b"/a", b"/b", b"/c", b"/gone"]
    assert [node.path for node in walked[b"/a"]] == [b"/a/first"]
    assert problems == [
        "/ has an entry with the impossible name '../x', which was left out",
        "/a: made-up: torn",
        "/b: the disk is gone",
    ]
    with pytest.raises(FormatError, match="impossible name"):
        list(tree.walk(tree.root))
