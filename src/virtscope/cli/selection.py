"""From the options that name guests to the guests. `select_guests` is the entry point."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Guests
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.guest import Guest


def select_guests(command: Command, args: argparse.Namespace) -> tuple[list[Guest], bool]:
    """The guests named by the options, or all running ones; and whether it was the latter.

    Raises:
        UsageError: a connection but no way to use it, or no guest is named and none is running.
        GuestError: libvirt was asked for its guests and did not answer.
    """
    from virtscope import guest

    assert command.guests is Guests.MEMORY
    named = [guest.open(domain=name, connect=args.connect) for name in args.domain or ()]
    named += [guest.open(qemu=which) for which in args.qemu or ()]
    named += [guest.open(memory=path) for path in args.memory or ()]
    if named:
        if args.connect and not args.domain:
            raise UsageError("--connect only makes sense with --domain, or alone")
        return named, False
    found = guest.running(args.connect)
    if not found:
        where = f" on {args.connect}" if args.connect else " on this host"
        raise UsageError(f"no guest is named and none is running{where}; see --help for how to name one")
    return found, True
