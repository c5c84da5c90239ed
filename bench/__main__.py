"""Run the measurements: `make bench`, or `python -m bench NAME...` for some of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = tuple(
    sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "__main__", "timing")
    )
)


def main() -> int:
    """Run those named, or all; returns 0 only if all could be measured."""
    failed = 0
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            print(f"bench: there is no {name!r}; there are {', '.join(NAMES)}", file=sys.stderr)
            return 2
        print(f"\n## {name}\n", flush=True)
        try:
            importlib.import_module(f"bench.{name}").main()
        except RuntimeError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
