"""Rows as tables, JSON and CSV; guests' strings made safe for a terminal."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.cli import output
from virtscope.cli.command import Column


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    size: int | None
    when: datetime | None = None
    raw: bytes = b""


NAME = Column("name", "NAME", lambda row: row.name, "the name")
SIZE = Column("size", "SIZE", lambda row: row.size, "the size", show=output.human_size, right=True)


def table(*rows: Row, guest: str | None = None, headings: bool = True, color: bool = False) -> str:
    out = io.StringIO()
    output.write_table(out, [NAME, SIZE], [(guest, row) for row in rows], headings, color)
    return out.getvalue()


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    assert table(Row("a", 5), Row("longer", 2048)) == "NAME    SIZE\na          5\nlonger  2.0K\n"


def test_unknown_is_shown_as_unknown_and_not_as_zero() -> None:
    assert table(Row("a", None), Row("b", 0)) == "NAME  SIZE\na        -\nb        0\n"


def test_several_guests_get_a_column() -> None:
    assert table(Row("a", 1), guest="web").splitlines()[0].split() == ["GUEST", "NAME", "SIZE"]


def test_no_headings() -> None:
    assert table(Row("a", 1), headings=False) == "a  1\n"


def test_wide_characters_keep_columns_straight() -> None:
    lines = table(Row("日本", 1), Row("abcd", 2)).splitlines()
    assert lines[1] == "日本     1"
    assert lines[2] == "abcd     2"


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain", "plain"),
        ("é日", "é日"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc", "a\\nb\\tc"),
        (os.fsdecode(b"\xff\xfe"), "\\xff\\xfe"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202etxt", "abc\\u202etxt"),
        ("C:\\dir", "C:\\dir"),
    ],
)
def test_escape(given_text: str, shown: str) -> None:
    assert output.escape(given_text) == shown


@given(st.text())
def test_nothing_that_acts_on_a_terminal_gets_through(text: str) -> None:
    for character in output.escape(text):
        assert ord(character) >= 0x20
        assert not 0x7F <= ord(character) < 0xA0


@given(st.binary())
def test_json_keeps_every_byte_of_a_name(name: bytes) -> None:
    text = output.dump_json(output.row_object(Row(os.fsdecode(name), 1), None, None))
    assert text.isascii()
    assert os.fsencode(json.loads(text)["name"]) == name


def test_json_has_times_in_utc_and_unknown_as_null() -> None:
    row = Row("a", None, datetime(2026, 3, 1, 12, 0, tzinfo=UTC), b"x\xff")
    assert output.row_object(row, None, "web") == {
        "guest": "web",
        "name": "a",
        "size": None,
        "when": "2026-03-01T12:00:00Z",
        "raw": "x\udcff",
    }


def test_chosen_columns_name_the_json_keys() -> None:
    assert output.row_object(Row("a", 7), [SIZE], None) == {"size": 7}


def test_csv_has_bytes_and_empty_cells_for_unknown() -> None:
    out = io.StringIO()
    output.write_csv(out, [NAME, SIZE], [("web", Row("a,b", 2048)), ("web", Row("c\x1b", None))], True)
    assert out.getvalue() == 'guest,name,size\nweb,"a,b",2048\nweb,c\\x1b,\n'


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (1025, "1.1K"),
        (10 * 1024, "10K"),
        (10 * 1024 + 1, "11K"),
        (1024**2 - 1, "1.0M"),
        (1023 * 1024**2, "1023M"),
        (5 * 1024**4, "5.0T"),
        (None, "-"),
    ],
)
def test_human_size_rounds_up_as_df_does(size: int | None, text: str) -> None:
    assert output.human_size(size) == text


def test_color_is_off_for_pipes_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not output.use_color("auto", io.StringIO())
    assert output.use_color("always", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.use_color("auto", io.StringIO())


def test_painting_does_not_disturb_the_columns() -> None:
    painted = table(Row("a", 1), color=True)
    assert "\x1b[1mNAME\x1b[0m" in painted
