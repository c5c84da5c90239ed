"""The rate of the host's time stamp counter."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from virtscope.sandbox import accelerator, compiler


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="hardware: the counter is x86's")
def test_found_once_after_every_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    init = compiler.guest_init()
    monkeypatch.setattr(compiler, "guest_init", lambda: init)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rate = accelerator.tsc_khz()
    assert 100_000 < rate < 20_000_000
    kept = tmp_path / "virtscope/sandbox/clock"
    boot, _, text = kept.read_text().partition("\n")
    assert (boot, text) == (Path("/proc/sys/kernel/random/boot_id").read_text().strip(), str(rate))
    kept.write_text(f"{boot}\n1234567")
    assert accelerator.tsc_khz() == 1234567
    kept.write_text(f"another boot\n{time.time_ns()}")
    # measured against a clock, where the kernel does not tell: not to the last digit
    assert abs(accelerator.tsc_khz() - rate) <= rate // 1000
