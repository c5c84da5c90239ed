"""Changes a mounted filesystem for ever: makes, fills, renames and removes files, the same ones in every run.

    xfs_churn.py FOLDER

Runs in lab guests, until it or the guest is killed.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path


def churn(top: Path) -> None:
    """Change what is below `top`, and have it written to the disk now and then."""
    source = random.Random(4)
    alive: list[Path] = []
    for index in range(10**9):
        folder = top / f"churn-{index // 400 % 30}"
        folder.mkdir(exist_ok=True)
        path = folder / f"file-{index}-{'y' * (index % 30)}"
        path.write_bytes(source.randbytes(source.choice((0, 10, 3000, 20_000))))
        os.setxattr(path, "user.index", b"%d" % index * source.choice((1, 40)))
        alive.append(path)
        if index % 5 == 4:
            moved = alive.pop(source.randrange(len(alive)))
            moved.rename(moved.with_name(f"{index}-moved"))
        if index % 3 == 2 or len(alive) > 4000:
            alive.pop(source.randrange(len(alive))).unlink()
        if index % 200 == 50:
            os.sync()


if __name__ == "__main__":
    churn(Path(sys.argv[1]))
