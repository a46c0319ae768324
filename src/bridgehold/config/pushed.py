"""How this layout's sinks stand, as their files say."""

from __future__ import annotations

from bridgehold.audit.pushing.pusher import State, read_state, state_file
from bridgehold.audit.pushing.standing import Standing, standing
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.errors import AuditError


def standings(layout: Layout, config: Config, now: float) -> list[Standing]:
    """Of every sink that the configuration names; `now`: seconds of the epoch."""
    found = []
    for name, section in config.push.items():
        try:
            state = read_state(state_file(layout.push, name))
        except AuditError as error:
            state = State(problem=error.message)
        found.append(standing(name, section.kind, section.to, state, now))
    return found
