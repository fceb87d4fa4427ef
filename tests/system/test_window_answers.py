"""Answers that no worker of ours gives to a window's invocation, but a handler that scribbles on its rings might."""

from __future__ import annotations

from typing import Any

import pytest

import streamfn
from streamfn.mapping import worker


@pytest.mark.parametrize("prints", [False, True], ids=["folded", "one by one"])
def test_a_certain_success_without_a_state_counts_as_failed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, prints: bool
) -> None:
    # The workers are forked from this process: they claim that every response is a success and has no state.
    monkeypatch.setattr(worker, "_outcomes", lambda judge: lambda answer: 0)

    def handler(event: Any, context: Any) -> Any:
        if prints:
            print("something")
        return {"stateless": True}

    with streamfn.open_sync(tmp_path) as session:
        session.put("s", b"x")
        result = session.run_until_caught_up(
            handler, "s", tumbling_window_in_seconds=900, maximum_retry_attempts=1, workers=1
        )
    assert (result.records, result.discarded, result.errors) == (0, 1, 2)
