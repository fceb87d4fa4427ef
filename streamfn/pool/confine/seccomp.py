"""The seccomp filters: which system calls there are none of behind the walls.

It is a deny list: what a handler may need cannot be listed, what it has no business with can.  The outer filter
goes up before any of the user's code runs; it leaves the zygote the four calls that make a worker's own walls.
The inner one takes those away from the worker as well.  Filters add up, and neither can ever be taken down.

A denied call fails with EPERM, `socket` with EACCES; `clone3`, whose flags lie in memory that a filter cannot see,
with ENOSYS, upon which every libc goes back to `clone`.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable, Iterator

from streamfn.pool import linux

# Numbers on x86-64 and aarch64; None where a call does not exist there.
CALLS: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # the kernel itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "syslog": (103, 116),
    "_sysctl": (156, None),
    # mounts beside `mount`
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # what has been a way into the kernel, and no handler needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "vhangup": (153, 58),
    # keys, which no namespace holds
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the machine's clock
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "settimeofday": (164, 170),
    # files by handle, and those of others
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # the machine
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # looked at more closely
    "truncate": (76, 45),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "personality": (135, 92),
}
DENIED = tuple(name for name in CALLS if name not in (
    "truncate", "mount", "unshare", "setns", "clone", "clone3", "ioctl", "socket", "socketpair", "personality",
))  # fmt: skip

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_MS_REMOUNT, _MS_MOVE = 0x20, 0x2000
# Putting characters into a terminal's input is typing into the shell behind it.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# Of SOCK_DGRAM and SOCK_RAW, and neither of SOCK_STREAM nor of SOCK_SEQPACKET.
_DATAGRAM_BIT = 2

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SET_MODE_FILTER = 1
_TSYNC, _SPEC_ALLOW = 1, 4
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def machine() -> str | None:
    """The architecture, if the filters know it."""
    name = platform.machine()
    return name if name in _ARCHITECTURES else None


def outer(*, network: bool, truncate: bool) -> bytes:
    """The filter of zygote and workers.

    `network`: sockets of the internet's families can be made; without it those of the UNIX family, which are the
    sandbox's own then: with it the machine's abstract ones could be reached.  `truncate`: landlock looks after
    truncate(2); where it does not (before ABI 3) the call is denied.
    """
    rules: list[Instruction] = []
    for name in DENIED:
        rules += _deny(name)
    if not truncate:
        rules += _deny("truncate")
    rules += _deny("clone3", errno.ENOSYS)
    rules += _deny_bits("mount", 3, _MS_REMOUNT | _MS_MOVE)
    rules += _deny_bits("clone", 0, _NAMESPACES & ~linux.CLONE_NEWPID)
    allowed = linux.CLONE_NEWNS | linux.CLONE_NEWUSER | linux.CLONE_NEWIPC
    rules += _deny_bits("unshare", 0, 0xFFFFFFFF & ~allowed)
    rules += _deny_values("ioctl", 1, (_TIOCSTI, _TIOCLINUX))
    rules += _allow_values("personality", 0, (0, 0xFFFFFFFF), errno.EPERM)
    if network:  # from half of a pair of datagram sockets any name can be sent to, the machine's abstract ones too
        rules += _deny_bits("socketpair", 1, _DATAGRAM_BIT)
    rules += _sockets([AF_INET, AF_INET6] if network else [AF_UNIX], route=network)
    return _program(rules)


def inner() -> bytes:
    """What a worker loses beside that."""
    rules = [*_deny("mount"), *_deny("unshare"), *_deny("setns"), *_deny_bits("clone", 0, _NAMESPACES)]
    return _program(rules)


def install(program: bytes) -> None:
    """Put a filter up for the process, its threads and everything that comes of it.  OSError if there is none.

    The process must have given up new privileges (PR_SET_NO_NEW_PRIVS).
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    # Without SPEC_ALLOW kernels before 5.16 make everything slower, against attacks within one process.
    other = linux.syscall(_SYS_SECCOMP[platform.machine()], _SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, header)
    if other:  # a thread has a filter of its own already, and keeps it
        raise OSError(errno.EBUSY, f"the filter cannot be put up for thread {other}")


# ---- the little assembler


def number(name: str) -> int | None:
    """The number of one of CALLS here; None where there is no such call."""
    return CALLS[name][_ARCHITECTURES[platform.machine()][1]]


def _program(rules: Iterable[Instruction]) -> bytes:
    kill = (_RETURN, 0, 0, _KILL)
    audit, _ = _ARCHITECTURES[platform.machine()]
    # Another architecture's numbers (32-bit code, x32) mean other calls.
    start: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), kill, (_LOAD, 0, 0, _NUMBER)]
    if platform.machine() == "x86_64":
        start += [(_AT_LEAST, 0, 1, _X32_BIT), kill]
    return b"".join(struct.pack("=HBBI", *each) for each in (*start, *rules, (_RETURN, 0, 0, _ALLOW)))


def _of(name: str, body: list[Instruction]) -> Iterator[Instruction]:
    """`body`, which returns in any case, for one call."""
    here = number(name)
    if here is not None:
        yield _EQUAL, 0, len(body), here
        yield from body


def _deny(name: str, error: int = errno.EPERM) -> Iterator[Instruction]:
    return _of(name, [(_RETURN, 0, 0, _ERRNO | error)])


def _deny_bits(name: str, argument: int, bits: int) -> Iterator[Instruction]:
    load = (_LOAD, 0, 0, _ARGUMENT + 8 * argument)  # the lower half: both architectures are little-endian
    denied = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    return _of(name, [load, (_ANY_BIT, 0, 1, bits), denied, (_RETURN, 0, 0, _ALLOW)])


def _deny_values(name: str, argument: int, values: tuple[int, ...]) -> Iterator[Instruction]:
    body: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENT + 8 * argument)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return _of(name, [*body, (_RETURN, 0, 0, _ALLOW)])


def _allow_values(name: str, argument: int, values: Iterable[int], error: int) -> Iterator[Instruction]:
    body: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENT + 8 * argument)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return _of(name, [*body, (_RETURN, 0, 0, _ERRNO | error)])


def _sockets(families: Iterable[int], *, route: bool) -> Iterator[Instruction]:
    body: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENT)]
    for family in families:
        body += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    if route:  # looking names up asks the kernel for the machine's own addresses: netlink's protocol 0
        allow = (_RETURN, 0, 0, _ALLOW)
        body += [(_EQUAL, 0, 3, AF_NETLINK), (_LOAD, 0, 0, _ARGUMENT + 16), (_EQUAL, 0, 1, 0), allow]
    return _of("socket", [*body, (_RETURN, 0, 0, _ERRNO | errno.EACCES)])
