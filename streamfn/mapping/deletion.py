"""Deleting what mappings stand on: never under one that runs."""

from __future__ import annotations

from contextlib import ExitStack

from streamfn.errors import BusyError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.state.owner import Ownership
from streamfn.state.store import Store


def delete_stream(data: DataDir, store: Store, name: str) -> None:
    """Delete a stream and its records. Waits for the disk.

    Raises:
        RefusedError: there is no such stream.
        BusyError: a mapping runs on it, or a process writes to it.
    """
    found = data.stream(name)
    with ExitStack() as held:
        for mapping in store.mappings(redrives_too=True):
            if mapping.stream_id == found.id:
                # Held until the stream is gone, so that none can start in between.
                try:
                    held.enter_context(Ownership.acquire(data.locks_path / mapping.uuid))
                except BusyError as error:
                    raise BusyError(f"stream {name!r} is not deleted: mapping {mapping.title!r} is {error}") from None
        data.delete_stream(name)


def delete_mapping(data: DataDir, store: Store, name: str) -> None:
    """Forget a mapping and its checkpoints. Waits for the disk.

    Raises:
        RefusedError: there is none of this name.
        BusyError: it is running.
    """
    mapping = store.mapping(name)
    if mapping is None:
        known = ", ".join(each.name for each in store.mappings()[:10])
        raise RefusedError(f"unknown mapping {name!r}: {f'there is {known}' if known else 'there is none yet'}")
    try:
        with Ownership.acquire(data.locks_path / mapping.uuid):
            store.forget(name)
    except BusyError as error:
        raise BusyError(f"mapping {name!r} is not deleted: it is {error}") from None
