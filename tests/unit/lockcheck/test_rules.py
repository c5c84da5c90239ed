"""Rule sets: the shipped ones are sound, and a mistake in one is named with its place and a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtscope.errors import UsageError
from virtscope.lockcheck import rules


@pytest.mark.parametrize("name", rules.shipped())
def test_shipped_sets_load(name: str) -> None:
    loaded = rules.load(name)
    assert loaded.title
    assert loaded.locks


def test_all_five_are_shipped() -> None:
    assert rules.shipped() == ["glib", "libvirt", "libvirt-2009", "pthread", "qemu"]


def test_included_sets_count() -> None:
    assert rules.load("libvirt").effects("pthread_mutex_lock")


def test_a_function_may_do_two_things() -> None:
    effects = {(e.lock, e.operation) for e in rules.load("libvirt").effects("qemuDomainObjEnterMonitor")}
    assert effects == {("object", "unlock"), ("monitor", "lock")}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[[lock]]\nname = 'm'\nunlok = ['u']",
            "mine.toml:3: unlok is not a key of [[lock]]: did you mean unlock?",
        ),
        ("entris = ['x']", "mine.toml:1: entris is not a key of the rule set: did you mean entries?"),
        ("title = 'x'\nlock = [", "mine.toml: "),
        ("[[lock]]\nname = 'm'\ntrylock = ['t']", "say which result means success"),
        (
            "[[lock]]\nname='m'\ntrylock=[{function='t', success='zeroo'}]",
            "zeroo is no success: did you mean zero?",
        ),
        ("checks = ['exit-lock']", "exit-lock is no checks: did you mean exit-locked?"),
        ("[[lock]]\nlock = ['l']", "lock needs a name"),
        ("[[lock]]\nname = 'm'\nlock = ['l:first']", 'has argument "first"'),
        ("takes = '('", "takes is no regular expression"),
        ("include = 'nothing'", "no rule set is called nothing"),
        ("[two_level]\ndriver = 'd'\nobject = 'o'", "d is no driver"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        rules.load(str(path))
    assert complaint in str(caught.value)


def test_a_set_that_includes_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("include = 'mine.toml'")
    with pytest.raises(UsageError, match="includes itself"):
        rules.load(str(path))


def test_a_name_close_to_one() -> None:
    with pytest.raises(UsageError, match="did you mean libvirt-2009"):
        rules.load("libvirt-209")
