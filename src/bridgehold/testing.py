"""The test kit, for tests of bridges and of what uses them: docs/reference/test-kit.md."""

from __future__ import annotations

from bridgehold.bridges.kit.behaviour import Behaviour, Scripted
from bridgehold.bridges.kit.faults import Faults
from bridgehold.bridges.kit.provider import Provider
from bridgehold.errors import TranscriptError
from bridgehold.faces.testing.chaos import chaos
from bridgehold.faces.testing.exercise import Command
from bridgehold.faces.testing.fake import FakeHost
from bridgehold.faces.testing.outcomes import Outcome
from bridgehold.faces.testing.recorder import Recorder, record, recording

__all__ = [
    "Behaviour",
    "Command",
    "FakeHost",
    "Faults",
    "Outcome",
    "Provider",
    "Recorder",
    "Scripted",
    "TranscriptError",
    "chaos",
    "record",
    "recording",
]
