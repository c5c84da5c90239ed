"""Swap areas of the real mkswap, with pages of every size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from virtscope.block import open_image
from virtscope.fs import identify, open_filesystem

_UUID = "3e6f4a3c-11b5-4c6d-9c8e-2f6b1c0de4f5"


@pytest.mark.parametrize("page_size", [4096, 8192, 16384, 65536])
def test_identity(tmp_path: Path, page_size: int) -> None:
    path = tmp_path / "swap.img"
    path.write_bytes(bytes(2 << 20))
    made = ["mkswap", "-q", "-p", str(page_size), "-U", _UUID, "-L", "label", str(path)]
    subprocess.run(made, check=True, capture_output=True)

    identity = identify(open_image(str(path), "raw"))

    assert (identity.kind, identity.uuid, identity.label, identity.size) == ("swap", _UUID, "label", 2 << 20)
    assert open_filesystem(open_image(str(path), "raw")) is None
