"""The native parts, and a clear sentence where they cannot be built.  Everything else is in pyproject.toml."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "native"))


def refuse(sentence: str) -> None:
    """End the build with one sentence instead of a compiler's pages."""
    sys.exit(f"\nstreamfn cannot be built here: {sentence}\n")


def check_platform() -> None:
    """Refuse what we do not support, before any compiler runs."""
    if sys.platform != "linux":
        refuse(f"it needs Linux (futex, eventfd, memfd), and this is {sys.platform}.")
    if platform.machine() not in ("x86_64", "aarch64"):
        refuse(f"it supports x86_64 and aarch64, and this machine is {platform.machine()}.")
    if sys.implementation.name != "cpython":
        refuse(f"its event builder is written for CPython, and this is {sys.implementation.name}.")


def check_compiler(compiler: str) -> None:
    """Refuse when the compiler or Python's headers are missing."""
    if shutil.which(compiler) is None:
        refuse(f"the C compiler '{compiler}' was not found; install one (Debian, Ubuntu: apt-get install gcc).")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        refuse(f"{header} is missing; install Python's headers (Debian, Ubuntu: apt-get install python{version}-dev).")


class BuildNative(build_ext):
    """Checks for a compiler first."""

    def build_extensions(self) -> None:
        """Build, once there is something to build with."""
        check_compiler(self.compiler.compiler_so[0])
        super().build_extensions()


check_platform()
import build_ffi  # noqa: E402  (needs the path above, and cffi, which the build requires)

setup(
    cmdclass={"build_ext": BuildNative},
    cffi_modules=["native/build_ffi.py:ffi"],
    ext_modules=[
        Extension(
            "streamfn._events",
            sources=sorted(f"native/events/{path.name}" for path in Path("native/events").glob("*.c")),
            include_dirs=["native/include", "native/events"],
            depends=[str(path) for path in Path("native").glob("*/*.h")],
            extra_compile_args=build_ffi.compile_flags,
            extra_link_args=build_ffi.link_flags,
        )
    ],
)
