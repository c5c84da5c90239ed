"""Write the manual pages and shell completions from the commands' tables: `make docs`."""

from __future__ import annotations

from pathlib import Path

from virtscope.cli.commands import COMMANDS
from virtscope.cli.completion import SHELLS, completion_script
from virtscope.cli.man import manual_page

DOCS = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Every generated file, by its path below docs/, and what must stand in it."""
    found = {Path("man") / f"{entry.name}.1": manual_page(entry.load()) for entry in COMMANDS}
    found |= {Path("completion") / f"virtscope.{shell}": completion_script(shell) for shell in SHELLS}
    return found


def main() -> None:
    """Bring the generated files up to date, and remove those of commands that are gone."""
    wanted = pages()
    for folder in {path.parent for path in wanted}:
        (DOCS / folder).mkdir(exist_ok=True)
        for old in (DOCS / folder).iterdir():
            if old.relative_to(DOCS) not in wanted:
                old.unlink()
    for path, text in wanted.items():
        (DOCS / path).write_text(text)


if __name__ == "__main__":
    main()
