"""Every example of docs/bitmatch.md runs."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from virtscope.bitmatch import PatternError, pattern

GUIDE = Path(__file__).parents[3] / "docs" / "bitmatch.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def disk_image() -> bytes:
    """The start of a disk with an ext3 superblock that says 4711 blocks are free."""
    image = bytearray(4096)
    struct.pack_into("<I", image, 1024 + 12, 4711)
    struct.pack_into("<H", image, 1024 + 56, 0xEF53)
    return bytes(image)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk.img").write_bytes(disk_image())
    code = "\n" * 3 + EXAMPLES[number]
    namespace: dict[str, object] = {"__name__": f"guide{number}"}
    exec(compile(code, f"docs/bitmatch.md example {number}", "exec"), namespace)
    if number == 0:
        assert capsys.readouterr().out == "4711 blocks are free\n"


def test_the_poor_mans_df_says_so_when_there_is_no_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk.img").write_bytes(bytes(4096))
    exec(EXAMPLES[0], {"__name__": "guide"})
    assert capsys.readouterr().out == "disk.img holds no ext3 filesystem\n"
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip()]
    assert len(lines) <= 9


def test_the_error_that_is_shown_is_the_one_that_comes() -> None:
    shown = re.search(r"^```text\n(superblock, .*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    with pytest.raises(PatternError) as caught:
        pattern("superblock", "little\n    s_magic : 16\n    s_uuid : bites(16)\n", names={}).compile()
    assert str(caught.value) == shown.group(1).rstrip("\n")
