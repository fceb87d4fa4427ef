"""Directories that a command works in: see `doors.apart`."""

from streamfn.doors.apart import directory_apart as directory_apart
from streamfn.doors.apart import store_apart as store_apart
