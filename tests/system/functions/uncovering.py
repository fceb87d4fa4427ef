"""A handler whose Init mounts its code directory again, to see what lies below whatever covers a part of it."""

import ctypes
import os

_BIND, _REC, _UNBINDABLE = 0x1000, 0x4000, 0x20000


def _mounted(name, source, kind, flags, data=None):
    os.makedirs(f"/tmp/{name}", exist_ok=True)
    ctypes.CDLL(None).mount(source.encode(), f"/tmp/{name}".encode(), kind, flags, data)
    found = []
    for path, _, names in os.walk(f"/tmp/{name}"):
        found += [os.path.relpath(os.path.join(path, each), f"/tmp/{name}") for each in names]
    return found


_CODE = os.getcwd()
FOUND = {
    "bind": _mounted("bind", _CODE, None, _BIND),
    "overlay": _mounted("overlay", "overlay", b"overlay", 0, f"lowerdir={_CODE}:/usr/lib/locale".encode()),
}
ctypes.CDLL(None).mount(None, f"{_CODE}/data".encode(), None, _UNBINDABLE, None)
FOUND["unbindable"] = _mounted("unbindable", _CODE, None, _BIND | _REC)


def handler(event, context):
    return FOUND
