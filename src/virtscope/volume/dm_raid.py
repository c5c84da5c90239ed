"""Which legs of device-mapper's RAID are in sync: `in_sync`.

Every leg has a small volume whose first sectors say how far it has come. The format is that of
drivers/md/dm-raid.c of Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.errors import UnsupportedFeature, VirtscopeError
from virtscope.volume.raid import Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtscope.bitmatch import Record
    from virtscope.block.source import BlockSource

DmRaidSuperblock = pattern(
    "dm_raid_superblock",
    """
    little
    magic                : 32 = 0x64526D44
    compat_features      : 32
    num_devices          : 32
    array_position       : 32
    events               : 64
    failed_devices       : 64
    disk_recovery_offset : 64
    array_resync_offset  : 64
    level                : 32
    layout               : 32
    stripe_sectors       : 32
    flags                : 32
    """,
)

_DONE = (1 << 64) - 1
_RESHAPING = 1
_V190 = 1


def in_sync(
    name: str, images: Sequence[BlockSource], metas: Sequence[BlockSource]
) -> tuple[list[BlockSource], bool]:
    """The legs, with those replaced by `Missing` that do not have what the array has.

    Args:
        name: of the array, for messages.
        images: the data of every leg.
        metas: the state of every leg.

    Returns:
        The legs, and whether all parity of the array has been written.
    """
    states: list[Record | None] = []
    problems = {}
    for index, meta in enumerate(metas):
        try:
            states.append(DmRaidSuperblock.match(meta.read_at(0, 512)))
        except VirtscopeError as error:
            problems[index] = str(error)
            states.append(None)
    known = [state for state in states if state is not None]
    if not known:
        # An array that was never activated: all legs are as they were made.
        return list(images), False
    newest = max(known, key=lambda state: int(state.events))
    if newest.compat_features & _V190 and newest.flags & _RESHAPING:
        raise UnsupportedFeature("LVM2", f"{name} is being reshaped, which is not read")
    legs: list[BlockSource] = []
    for index, (image, state) in enumerate(zip(images, states, strict=True)):
        if newest.failed_devices >> index & 1:
            why = f"leg {index} of {name} had failed"
        elif state is None:
            why = problems.get(index, f"nothing is known of leg {index} of {name}")
        elif state.events + 1 < newest.events:
            why = f"leg {index} of {name} is older than the others"
        elif state.disk_recovery_offset != _DONE:
            why = f"leg {index} of {name} had not been rebuilt yet"
        else:
            legs.append(image)
            continue
        legs.append(Missing(image.name, image.size, why))
    return legs, newest.array_resync_offset == _DONE
