"""The socket's methods for artifacts, and the same for what runs inside."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import ArtifactChanged, ArtifactRead
from bridgehold.config.settings import Settings
from bridgehold.errors import LimitError, UsageError
from bridgehold.host.cell.store.artifacts import PART_BYTES, ArtifactStore, SerialChanges
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.ids import LOCAL_TENANT, digest_bytes
from bridgehold.policies.units import format_size
from bridgehold.protocol.values import Artifact, Principal

_INSIDE_BYTES = 512 * 1024
"""Of one part that a bridge sends or gets: what any session's frames hold."""


class PutParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of an upload: without `upload` the first, with `last` the last."""

    data: bytes
    """Base64, where it is JSON."""
    upload: str = ""
    last: bool = True
    name: str = ""
    media_type: str = ""
    tenant: str = LOCAL_TENANT


class DropParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `artifact.drop`: give up an upload."""

    upload: str
    tenant: str = LOCAL_TENANT


class GetParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `artifact.get` and `artifact.remove`: `length` bytes of an artifact, from `offset` on."""

    digest: str
    offset: int = 0
    length: int = 4 * 1024 * 1024
    tenant: str = LOCAL_TENANT


class ListParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `artifact.list`."""

    tenant: str = LOCAL_TENANT


class Artifacts:
    """Puts, gets and lists, each for one tenant, each in the audit."""

    def __init__(
        self,
        store: ArtifactStore,
        journal: JournalClient,
        settings: Settings,
        changes: SerialChanges | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._journal = journal
        self._changes = changes or SerialChanges()

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "artifact.put": Method(PutParams, self.put),
            "artifact.drop": Method(DropParams, self.drop),
            "artifact.get": Method(GetParams, self.get, gives=4 * PART_BYTES, reads=True),
            "artifact.list": Method(ListParams, self.list, reads=True),
            "artifact.remove": Method(GetParams, self.remove),
        }

    async def put(self, principal: Principal, params: PutParams, _emit: Emit) -> dict[str, object]:
        """One part of an upload, or its end; see docs/reference/host-protocol.md."""
        return await self._put(self._for(params.tenant), principal.name, params)

    async def drop(self, principal: Principal, params: DropParams, _emit: Emit) -> dict[str, object]:
        """Give up an upload; one that is gone is no error."""
        tenant = self._for(params.tenant)

        async def drop() -> dict[str, object]:
            await asyncio.to_thread(self._store.drop, tenant, params.upload)
            return {"upload": params.upload}

        return await self._changes.take(tenant, drop)

    async def get(self, principal: Principal, params: GetParams, _emit: Emit) -> dict[str, object]:
        """A part of an artifact's bytes."""
        return await self._get(self._for(params.tenant), principal.name, params)

    async def list(self, principal: Principal, params: ListParams, _emit: Emit) -> list[Artifact]:
        """The tenant's artifacts, the newest last."""
        return await asyncio.to_thread(self._store.list, self._for(params.tenant))

    async def remove(self, principal: Principal, params: GetParams, _emit: Emit) -> Artifact:
        """Remove an artifact. Raises `NotFoundError`."""
        tenant = self._for(params.tenant)

        async def remove() -> Artifact:
            found = await asyncio.to_thread(self._store.remove, tenant, params.digest)
            await self._changed(tenant, principal.name, "removed", found)
            return found

        return await self._changes.take(tenant, remove)

    async def take_out(self, principal: Principal, tenant: str, digest: str, most: int) -> bytes:
        """All bytes of an artifact, which is let go of. Raises `NotFoundError`, `LimitError` past `most`."""
        self._for(tenant)

        def read() -> tuple[Artifact, bytes]:
            size = self._store.stat(tenant, digest).size_bytes
            if size > most:
                raise LimitError(f"an archive has at most {format_size(most)}")
            parts = range(0, max(size, 1), PART_BYTES)
            data = b"".join(self._store.read(tenant, digest, start, PART_BYTES) for start in parts)
            if digest_bytes(data) != digest:
                raise UsageError("the artifact's bytes are not those of its digest")
            return self._store.remove(tenant, digest), data

        async def take() -> bytes:
            found, data = await asyncio.to_thread(read)
            await self._changed(tenant, principal.name, "removed", found)
            return data

        return await self._changes.take(tenant, take)

    async def left(self, tenant: str, gone: bool) -> tuple[int, int]:
        """How many artifacts there are of a tenant that was removed, and their bytes; `gone`: they go."""

        async def look() -> tuple[int, int]:
            found = await asyncio.to_thread(self._store.list, tenant)
            if gone:
                await asyncio.to_thread(self._store.forget, tenant)
            return len(found), sum(one.size_bytes for one in found)

        return await self._changes.take(tenant, look)

    async def call(
        self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext, _means: object
    ) -> object:
        """As a tool's source: for the session's own tenant only."""
        if tool.name == "artifact_list":
            return msgspec.to_builtins(await asyncio.to_thread(self._store.list, context.tenant))
        if tool.name == "artifact_put":
            try:
                params = msgspec.convert(arguments, PutParams)
            except msgspec.ValidationError:  # its schema has been looked at
                raise UsageError("the data is no base64", where="data") from None
            return await self._put(context.tenant, context.principal, params)
        given = {"length": _INSIDE_BYTES, **arguments}
        said = await self._get(context.tenant, context.principal, msgspec.convert(given, GetParams))
        return {**said, "data": base64.b64encode(said["data"]).decode()}

    async def _put(self, tenant: str, principal: str, params: PutParams) -> dict[str, object]:
        store, data = self._store, params.data

        async def put() -> dict[str, object]:
            upload = params.upload or await asyncio.to_thread(store.begin, tenant)
            size = await asyncio.to_thread(store.append, tenant, upload, data)
            if not params.last:
                return {"upload": upload, "size_bytes": size}
            made = await asyncio.to_thread(
                store.finish, tenant, upload, name=params.name, media_type=params.media_type
            )
            await self._changed(tenant, principal, "kept", made)
            said: dict[str, object] = msgspec.to_builtins(made)
            return said

        return await self._changes.take(tenant, put)

    async def _get(self, tenant: str, principal: str, params: GetParams) -> dict[str, Any]:
        found = await asyncio.to_thread(self._store.stat, tenant, params.digest)
        data = await asyncio.to_thread(self._store.read, tenant, params.digest, params.offset, params.length)
        event = ArtifactRead(
            tenant=tenant,
            principal=principal,
            digest=found.digest,
            size_bytes=found.size_bytes,
            offset=params.offset,
            length=len(data),
            name=found.name,
        )
        await self._journal.append(event)
        return {**msgspec.to_builtins(found), "offset": params.offset, "data": data}

    def _for(self, tenant: str) -> str:
        self._settings.features.demand("artifacts", tenant)
        return tenant

    async def _changed(self, tenant: str, principal: str, action: str, one: Artifact) -> None:
        event = ArtifactChanged(
            tenant=tenant,
            principal=principal,
            action=action,
            digest=one.digest,
            size_bytes=one.size_bytes,
            name=one.name,
        )
        await self._journal.append(event)


def inside_tools() -> tuple[ToolSpec, ...]:
    """What a bridge may do with artifacts, where its policy allows these names."""
    text: dict[str, object] = {"type": "string"}
    count: dict[str, object] = {"type": "integer", "minimum": 0}
    put: dict[str, object] = {
        "data": {**text, "maxLength": _INSIDE_BYTES * 2},
        "upload": text,
        "last": {"type": "boolean"},
        "name": text,
        "media_type": text,
    }
    get: dict[str, object] = {
        "digest": text,
        "offset": count,
        "length": {"type": "integer", "minimum": 1, "maximum": _INSIDE_BYTES},
    }

    def spec(name: str, description: str, properties: dict[str, object], *required: str) -> ToolSpec:
        schema: dict[str, object] = {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        }
        return ToolSpec(name=name, description=description, parameters=schema, how="host")

    return (
        spec("artifact_put", "Keep bytes for the tenant: base64, in parts", put, "data"),
        spec("artifact_get", "Bytes of the tenant's, by digest, from an offset on", get, "digest"),
        spec("artifact_list", "The tenant's artifacts", {}),
    )
