"""Landlock: what of the file system a worker may touch, whatever name or descriptor it comes by.

The mount namespace decides what there is to be named; landlock holds beside it for what is reached otherwise.  Above
all a worker is handed descriptors of log segments, and /proc/self/fd would open them again for writing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from streamfn.pool import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same everywhere
_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILES = (1 << 13) - 1  # ABI 1
_FILES_SINCE = ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
_NETWORK = 1 << 0 | 1 << 1  # bind and connect over TCP, ABI 4
_SCOPES = 1 << 0 | 1 << 1  # abstract UNIX sockets and signals beyond the walls, ABI 6

READ = EXECUTE | READ_FILE | READ_DIR
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
ALL = ~(_MAKE_CHAR | _MAKE_BLOCK)

ABI_TRUNCATE, ABI_SCOPES = 3, 6


def abi() -> int:
    """The version of landlock this kernel speaks; 0: none."""
    try:
        return linux.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]], *, network: bool) -> None:
    """Leave this thread, for good, the given rights beneath the given paths, and none to other files.

    The process must have one thread and have given up new privileges.  OSError if there is no landlock or no such path.
    """
    version = abi()
    files = _FILES
    for since, right in _FILES_SINCE:
        files |= right if version >= since else 0
    attributes = [files]
    if version >= 4:
        attributes.append(0 if network else _NETWORK)
    if version >= ABI_SCOPES:
        attributes.append(_SCOPES)
    ruleset = linux.syscall(_CREATE_RULESET, struct.pack(f"={len(attributes)}Q", *attributes), 8 * len(attributes), 0)
    try:
        for path, rights in rules:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", rights & files, place)
                linux.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
            finally:
                os.close(place)
        linux.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
