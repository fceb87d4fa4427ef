"""The states of a mapping, in Lambda's words.

What is stored says what is wanted (`enabled`) and what was asked for last. A request answers with the state on the way;
where it leads is settled by the process that runs the mapping, at the edge of a batch, or at once where none does.

    create ──▶ Creating ──▶ Enabled          enable ──▶ Enabling ──▶ Enabled
    create, not enabled ──▶ Disabled         disable ─▶ Disabling ─▶ Disabled
    update ──▶ Updating ──▶ Enabled, or Disabled where it was      delete ──▶ Deleting ──▶ (gone)
"""

from __future__ import annotations

CREATING, ENABLING, ENABLED = "Creating", "Enabling", "Enabled"
DISABLING, DISABLED = "Disabling", "Disabled"
UPDATING, DELETING = "Updating", "Deleting"
STATES = (CREATING, ENABLING, ENABLED, DISABLING, DISABLED, UPDATING, DELETING)

# StateTransitionReason of a stream's mapping, as it was recorded; Lambda's own action has no recorded text.
USER_ACTION = "User action"

# LastProcessingResult: the first two were recorded, the third is in the Developer Guide.
NOTHING_YET = "No records processed"
OK = "OK"
CALL_FAILED = "PROBLEM: Function call failed"

_LEADS_TO = {CREATING: ENABLED, ENABLING: ENABLED, ENABLED: ENABLED, DISABLING: DISABLED, DISABLED: DISABLED}


def after_create(enabled: bool) -> str:
    """The state that the answer to `create` shows."""
    return CREATING if enabled else DISABLED


def after_update(enable: bool | None) -> str:
    """The state that the answer to `update` shows; `enable` is what was asked of Enabled, None: nothing."""
    return UPDATING if enable is None else ENABLING if enable else DISABLING


def settled(state: str, enabled: bool) -> str | None:
    """Where a state leads, as soon as nothing is at work any more; None: the mapping is gone."""
    if state == DELETING:
        return None
    if state == UPDATING:
        return ENABLED if enabled else DISABLED
    return _LEADS_TO[state]


def in_transition(state: str) -> bool:
    """Whether something has been asked for that may not have come into effect."""
    return state not in (ENABLED, DISABLED)
