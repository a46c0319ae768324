"""The test kit, for tests of bridges and of what uses them: docs/reference/test-kit.md."""

from __future__ import annotations

from bridgehold.bridges.kit.provider import Behaviour, Provider
from bridgehold.errors import TranscriptError
from bridgehold.host.faces.testing.fake import FakeHost
from bridgehold.host.faces.testing.recorder import Recorder, record, recording

__all__ = ["Behaviour", "FakeHost", "Provider", "Recorder", "TranscriptError", "record", "recording"]
