"""The filters as programs, run by a small machine of our own for both architectures, and the numbers of calls."""

import re
import shutil
import struct
import subprocess

import pytest

from streamfn.pool.confine import seccomp

X86, ARM = "x86_64", "aarch64"
AUDIT = {X86: 0xC000003E, ARM: 0xC00000B7}
ALLOWED, KILLED = "allowed", "killed"


def verdict(program, machine, number, *arguments, audit=None):
    """What a filter says to a call: an errno, or one of the words above."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, audit or AUDIT[machine], 0, *values)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(operand, operand & 0xFFFF)
        else:
            holds = {0x15: accumulator == operand, 0x45: accumulator & operand, 0x35: accumulator >= operand}[code]
            at += yes if holds else no


@pytest.fixture(params=[X86, ARM])
def machine(request, monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: request.param)
    return request.param


def number(name, machine):
    return seccomp.CALLS[name][[X86, ARM].index(machine)]


def test_what_is_on_the_list_is_denied_and_what_is_not_is_allowed(machine):
    program = seccomp.outer(network=False, truncate=True)
    for name in seccomp.DENIED:
        if number(name, machine) is not None:
            assert verdict(program, machine, number(name, machine)) == 1, name
    taken = {number(name, machine) for name in seccomp.CALLS}
    for other in set(range(470)) - taken:
        assert verdict(program, machine, other) == ALLOWED
    assert verdict(program, machine, number("truncate", machine)) == ALLOWED
    assert verdict(program, machine, number("clone3", machine)) == 38


def test_truncate_is_denied_where_landlock_does_not_look_after_it(machine):
    assert verdict(seccomp.outer(network=False, truncate=False), machine, number("truncate", machine)) == 1


def test_another_architectures_calls_kill(machine):
    program = seccomp.outer(network=True, truncate=True)
    assert verdict(program, machine, 1, audit=0x40000003) == KILLED
    if machine == X86:
        assert verdict(program, machine, 0x40000001) == KILLED


@pytest.mark.parametrize(
    ("network", "family", "protocol", "expected"),
    [
        (False, 1, 0, ALLOWED), (False, 2, 0, 13), (False, 10, 0, 13), (False, 16, 0, 13), (False, 40, 0, 13),
        (True, 1, 0, 13), (True, 2, 6, ALLOWED), (True, 10, 17, ALLOWED), (True, 16, 0, ALLOWED), (True, 16, 12, 13),
        (True, 17, 0, 13), (True, 40, 0, 13),
    ],
)  # fmt: skip
def test_sockets_are_of_the_families_that_were_asked_for(machine, network, family, protocol, expected):
    program = seccomp.outer(network=network, truncate=True)
    assert verdict(program, machine, number("socket", machine), family, 1, protocol) == expected


def test_with_the_network_a_pair_of_sockets_stays_a_pair(machine):
    """A datagram socket of a pair can be sent from to any name there is in the network namespace."""
    call = number("socketpair", machine)
    for kind, expected in {1: ALLOWED, 5: ALLOWED, 2: 1, 3: 1, 2 | 0o2000000: 1, 1 | 0o2000000: ALLOWED}.items():
        assert verdict(seccomp.outer(network=True, truncate=True), machine, call, 1, kind) == expected
        assert verdict(seccomp.outer(network=False, truncate=True), machine, call, 1, kind) == ALLOWED


def test_the_zygote_makes_walls_and_nothing_else(machine):
    program = seccomp.outer(network=False, truncate=True)

    def said(name, *arguments):
        return verdict(program, machine, number(name, machine), *arguments)

    assert said("mount", 0, 0, 0, 0x1000) == ALLOWED  # bind
    assert said("mount", 0, 0, 0, 0x1020) == said("mount", 0, 0, 0, 0x2000) == 1  # remount, move
    assert said("unshare", 0x10000000) == said("unshare", 0x00020000 | 0x08000000) == ALLOWED
    assert said("unshare", 0x40000000) == said("unshare", 0x20000000) == said("unshare", 0x80) == 1
    assert said("clone", 0x20000000 | 17) == said("clone", 17) == ALLOWED
    assert said("clone", 0x10000000) == said("clone", 0x40000000) == 1
    assert said("ioctl", 0, 0x5412) == said("ioctl", 0, 0x541C) == 1
    assert said("ioctl", 0, 0x5401) == ALLOWED
    assert said("ioctl", 0, 0x5412 | 1 << 32) == 1  # the kernel looks at the lower half too
    assert said("personality", 0xFFFFFFFF) == ALLOWED
    assert said("personality", 0x0040000) == 1


def test_the_worker_makes_none(machine):
    program = seccomp.inner()
    for name in ("mount", "unshare", "setns"):
        assert verdict(program, machine, number(name, machine)) == 1
    for flags in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, machine, number("clone", machine), flags | 17) == 1
    assert verdict(program, machine, number("clone", machine), 0x003D0F00) == ALLOWED  # a thread


@pytest.mark.parametrize(("index", "compiler"), [(0, "gcc"), (1, "aarch64-linux-gnu-gcc")])
def test_the_numbers_are_the_kernels(index, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} to ask")
    done = subprocess.run(
        [compiler, "-E", "-dM", "-"], input="#include <asm/unistd.h>\n", capture_output=True, text=True, check=False
    )
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)$", done.stdout, re.MULTILINE))
    if "read" not in known:
        pytest.skip(f"{compiler} is not for {(X86, ARM)[index]}, or has no kernel headers")
    if index == 0 and known["read"] != "0":
        pytest.skip("gcc is not for x86-64 here")
    for name, numbers in seccomp.CALLS.items():
        if name in known:  # newer ones than the headers are not
            assert numbers[index] == int(known[name]), name
    assert len(set(seccomp.CALLS) & set(known)) > 50
