"""What an image says of other files, and which of them it may make us open."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.block.backing import check_allowed, parse_reference
from virtscope.block.raw import HostFile
from virtscope.errors import BackingRefused, UnsupportedFeature, VirtscopeError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("base.qcow2", "/vm/base.qcow2"),
        ("sub/base.qcow2", "/vm/sub/base.qcow2"),
        ("/other/base.qcow2", "/other/base.qcow2"),
        ("file:base.qcow2", "/vm/base.qcow2"),
        ("with:colon/../x", None),
        ("./with:colon", "/vm/./with:colon"),
        ('json:{"driver":"file","filename":"b"}', "/vm/b"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/b"}}', "/b"),
        ('json:{"driver":"qcow2","file.driver":"file","file.filename":"/b"}', "/b"),
        ('json:{"file.filename":"/b"}', "/b"),
        ("nbd://host/disk", None),
        ('json:{"driver":"nbd","host":"h"}', None),
    ],
)
def test_names_of_files(text: str, path: str | None) -> None:
    if path is None:
        with pytest.raises(UnsupportedFeature):
            parse_reference(text, "/vm/top.qcow2")
    else:
        assert parse_reference(text, "/vm/top.qcow2").path == path


def test_a_description_says_format_and_part_of_a_file() -> None:
    text = 'json:{"driver":"raw","offset":1024,"size":"4096","file":{"driver":"file","filename":"/b"}}'
    found = parse_reference(text, "/vm/top.qcow2", "qcow2")
    assert (found.format, found.start, found.size) == ("raw", 1024, 4096)


def test_a_description_may_cut_or_replace_the_chain() -> None:
    file = {"driver": "file", "filename": "/b"}
    cut = parse_reference("json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None}), "/t")
    assert cut.backing is False
    other = {"driver": "raw", "file": {"driver": "file", "filename": "/c"}}
    described = {"driver": "qcow2", "file": file, "backing": other}
    replaced = parse_reference("json:" + json.dumps(described), "/t")
    assert not isinstance(replaced.backing, bool)
    assert replaced.backing is not None
    assert (replaced.backing.path, replaced.backing.format) == ("/c", "raw")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["file", "raw", "/x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["driver", "file", "filename", "backing", "offset", "size", "file.filename", "x.y"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.text(max_size=30))
def test_nonsense_is_one_of_our_errors(value: object) -> None:
    for text in ("json:" + json.dumps(value), str(value)):
        with suppress(VirtscopeError):
            assert parse_reference(text, "/vm/top.qcow2").path


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(VirtscopeError):
        parse_reference("json:" + '{"file":' * 900 + "1" + "}" * 900, "/top")
    with pytest.raises(VirtscopeError):
        parse_reference("json:" + "[" * 200_000, "/top")


def test_a_probed_image_may_name_its_folder_and_what_is_allowed(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "base").touch()
    top = str(own / "top")
    check_allowed(parse_reference("base", top), top, "qcow2", "backing", ())
    outside = parse_reference("../other/base", top)
    with pytest.raises(BackingRefused, match="--allow-backing") as caught:
        check_allowed(outside, top, "qcow2", "backing", ())
    assert "--format qcow2" in str(caught.value)
    check_allowed(outside, top, "qcow2", "backing", (str(other),))
    with pytest.raises(BackingRefused):
        check_allowed(outside, top, "qcow2", "backing", (str(other)[:-1],))


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "secret").touch()
    (own / "base").symlink_to(tmp_path / "secret")
    top = str(own / "top")
    with pytest.raises(BackingRefused):
        check_allowed(parse_reference("base", top), top, "qcow2", "backing", ())


def test_names_from_a_disk_are_escaped_in_messages(tmp_path: Path) -> None:
    top = str(tmp_path / "top")
    reference = parse_reference("../x\n\x1b[31mred", top)
    with pytest.raises(BackingRefused) as caught:
        check_allowed(reference, top, "qcow2", "backing", ())
    assert str(caught.value).isprintable()
    with pytest.raises(VirtscopeError) as missing:
        HostFile(reference.path)
    assert str(missing.value).isprintable()
