"""Names of encrypted files, as the kernel shows them without the key: `no_key_name`.

They are made of the bytes on disk, in letters that any name may have, and tell files apart. See
fs/crypto/fname.c in the kernel (5.15 and later; older ones wrote `+` and `,` where these write `-` and `_`).
"""

from __future__ import annotations

import base64
import hashlib
import struct

_WHOLE = 149


def no_key_name(encrypted: bytes, hash: tuple[int, int]) -> bytes:
    """What an encrypted name is shown as.

    Args:
        encrypted: the bytes on disk.
        hash: of the directory entry; zeros where there is none, as for targets of symbolic links.
    """
    shown = struct.pack("<II", *hash) + encrypted[:_WHOLE]
    if len(encrypted) > _WHOLE:
        shown += hashlib.sha256(encrypted[_WHOLE:]).digest()
    return base64.urlsafe_b64encode(shown).rstrip(b"=")


def no_key_target(data: bytes) -> bytes:
    """What the target of an encrypted symbolic link is shown as.

    Args:
        data: its content: a length, and so many encrypted bytes (struct fscrypt_symlink_data).
    """
    length = int.from_bytes(data[:2], "little")
    return no_key_name(data[2 : 2 + length], (0, 0))
