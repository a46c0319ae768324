"""What the launcher knows of itself and of each sandbox."""

from __future__ import annotations

import functools
import math

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.records.workers import WorkerExited
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.fork.zygote import Zygote
from bridgehold.sandbox.launch.bwrap import Bubblewrap
from bridgehold.sandbox.launch.cold import Start
from bridgehold.sandbox.launch.roots import Roots
from bridgehold.sandbox.launch.staging import NoStage, Stage, Staged
from bridgehold.sandbox.launch.uids import CellUids, UidPool
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.reap import By, Ending
from bridgehold.sandbox.limits.bounds import Bounds
from bridgehold.sandbox.limits.rlimits import own_rlimits
from bridgehold.sandbox.spec import spec_digest
from bridgehold.sandbox.values import Attestation, SandboxSpec, StartNote

ZYGOTE_ENDED = "the zygote has ended"


class Parts(msgspec.Struct, kw_only=True):
    """What the launcher has set up by the time it serves."""

    bounds: Bounds
    overcommit: bool
    parent: CgroupParent
    uids: UidPool
    cells: CellUids | None = None
    """None: cells have the uid that everything has."""
    roots: Roots
    stage: Stage | NoStage
    seccomp: bytes
    zygote_seccomp: bytes
    bwrap: Bubblewrap
    descriptors: int
    """As many as this process may have."""

    @property
    def forks(self) -> bool:
        """Whether sessions can be forked here: each needs a cgroup and a uid of its own."""
        return self.parent.version != "none" and self.uids.range.mode != "shared"

    def rlimits(self, spec: SandboxSpec) -> dict[int, int]:
        """What every process of a sandbox of `spec` is limited to, beside its cgroup."""
        return own_rlimits(
            spec.resources,
            as_limit=self.parent.version == "none",
            shared_uid=self.uids.range.mode == "shared",
            zygote=spec.kind == "zygote",
        )


class Worker:
    """One sandbox, from the request on."""

    def __init__(self, name: str, spec: SandboxSpec, uid: int, request: int, channel: Channel) -> None:
        """`channel`: of who starts it, and alone may ask about it."""
        self.channel = channel
        self.name = name
        self.spec = spec
        self.uid = uid
        self.request = request
        """Whose answer the start is; 0: made ahead, and nobody waits for it."""
        self.cgroup: SessionCgroup
        self.staged: Staged | None = None
        """Of a sandbox that bubblewrap made."""
        self.start: Start | Fork
        self.zygote: Zygote | None = None
        """Of a zygote, once it runs: what is forked from."""
        self.root_uid: int | None = None
        """Of a zygote: the uid that is nobody's, and shows as 0 in its sessions."""
        self.parent: Worker | None = None
        """Of a fork: its zygote's."""
        self.started = False
        self.ending: Ending | None = None
        self.failure: ErrorInfo | None = None
        self.killers: list[int] = []
        """Ids of `kill` requests that wait for its end."""
        self.proof_wanted: requests.AttestRequest | None = None
        """Of a fork whose first process has not left yet: the request that waits for it."""
        self.settling: Attestation | None = None
        """Of a zygote that is being held for the first time: the proof that is answered when it stands."""
        self.proved = False
        """It was attested; a further proof is a look at what still holds."""
        self.proof_until = 0.0
        """Monotonic time up to which a proof that was asked for may wait for the sandbox's init."""
        self.note = StartNote()
        self.start_event = ""
        """Reference of the event of its start, once that is on the disk."""
        self.record_until = math.inf
        """Monotonic time by which that has to be; none where it is, or was not asked for."""
        self.ended: WorkerExited | None = None
        """Nothing is left of it."""
        self.wanted: set[int] = set()
        """Descriptors that are to be polled, and below those that are."""
        self.watched: set[int] = set()
        self.fault: Exception | None = None
        """What has gone wrong with it, and ends it as soon as that can be done."""
        self.suspect_until = 0.0
        """Monotonic time up to which a kill for memory may still show."""

    @functools.cached_property
    def digest(self) -> str:
        """Of its spec."""
        return spec_digest(self.spec)

    @property
    def tenant(self) -> str:
        """Whose it is in the audit; empty of what is the host's own."""
        return self.spec.tenant if self.spec.kind in ("worker", "zygote") else ""

    @property
    def running(self) -> bool:
        """Whether it has started and nobody has begun to end it."""
        return self.started and self.ending is None

    def whose_end(self) -> tuple[By, str]:
        """Of one that has ended, unasked: by itself, or with its zygote; of that end the kernel tells later
        than of its forks', perhaps."""
        init = self.parent.start.running if self.parent is not None else None
        if init is not None and procfs.ending(init.init, init.init_start):
            return "zygote", ZYGOTE_ENDED
        return "", ""

    @property
    def proof_due(self) -> requests.AttestRequest | None:
        """The request for a proof that waits for a moment to pass, and for nothing that would be noticed."""
        return self.proof_wanted if self.start.running.first_fd < 0 else None
