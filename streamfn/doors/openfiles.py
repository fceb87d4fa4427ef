"""Room for the files of a stream with many shards."""

from __future__ import annotations

import resource

# Standard streams, libraries, the file that is imported, the state store.
_OTHERS = 64


def allow_open_files(count: int) -> None:
    """Raise the soft limit of open files, within the hard one, so that `count` more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
