"""Builds `streamfn._native`: every header in native/include is manual, layout contract and cdef in one.

The text between the markers `cdef: begin` and `cdef: end` of each header goes to cffi as it stands, in
the order of the headers' own includes, so there is no second copy of a declaration to drift.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
INCLUDE = NATIVE / "include"
# Later headers use the types of earlier ones.
HEADERS = ["sf_layout.h", "sf_extent.h", "sf_histogram.h", "sf_meter.h", "sf_map.h", "sf_log.h", "sf_json.h"]
HEADERS += ["sf_rows.h", "sf_keeper.h", "sf_ring.h"]

COMPILE = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-UNDEBUG", "-Wall", "-Wextra", "-fvisibility=hidden"]
SANITIZE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv", "-fsanitize=address,undefined"]


def flags() -> tuple[list[str], list[str]]:
    """Compile and link flags; STREAMFN_SANITIZE=1 asks for AddressSanitizer and UBSan."""
    if os.environ.get("STREAMFN_SANITIZE") == "1":
        return COMPILE + SANITIZE, SANITIZE
    return COMPILE, []


def declarations(header: str) -> str:
    """The text of one header that cffi reads."""
    text = (INCLUDE / header).read_text()
    return "\n".join(re.findall(r"/\* cdef: begin.*?\*/(.*?)/\* cdef: end \*/", text, re.DOTALL))


def sources() -> list[str]:
    """The C files of the module, relative to the project as setuptools wants them."""
    return sorted(f"native/src/{path.name}" for path in (NATIVE / "src").glob("*.c"))


compile_flags, link_flags = flags()
ffi = FFI()
for name in HEADERS:
    ffi.cdef(declarations(name))
ffi.set_source(
    "streamfn._native",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    sources=sources(),
    include_dirs=["native/include"],
    depends=sorted(f"native/include/{path.name}" for path in INCLUDE.glob("*.h")),
    extra_compile_args=compile_flags,
    extra_link_args=link_flags,
)
