"""The bill of materials of an environment: CycloneDX 1.6, in JSON (pure).

The few fields that are known for sure; https://cyclonedx.org/docs/1.6/json/ has them all.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import quote

from bridgehold.sandbox.supply.licences import Licence
from bridgehold.sandbox.supply.scan import Part, Scanned

SPEC = "1.6"


def bill_of(scanned: Scanned, now: datetime, version: str) -> dict[str, Any]:
    """One document: each package with purl, hash of its wheel and licence, and the advisories that hit.

    `version`: this program's. The serial number is of the environment and the time, so that a document that
    is made again is another one.
    """
    at = now.isoformat(timespec="seconds")
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{scanned.digest} {at}')}",
        "version": 1,
        "metadata": {
            "timestamp": at,
            "tools": {"components": [{"type": "application", "name": "bridgehold", "version": version}]},
            "component": {
                "type": "application",
                "bom-ref": scanned.digest,
                "name": " ".join(scanned.bridges) or "environment",
                "version": scanned.digest,
                "properties": [
                    {"name": "bridgehold:python", "value": scanned.python},
                    {"name": "bridgehold:platform", "value": scanned.platform},
                ],
            },
        },
        "components": [_component(one) for one in scanned.contents.parts],
        "dependencies": [
            {
                "ref": scanned.digest,
                "dependsOn": [_purl(one.name, one.version) for one in scanned.contents.parts],
            }
        ],
        "vulnerabilities": [
            {
                "bom-ref": f"{one.id}/{one.package}",
                "id": one.id,
                "references": [{"id": alias, "source": {"name": "OSV"}} for alias in one.aliases],
                "ratings": [{"severity": one.severity}],
                "description": one.summary,
                "affects": [{"ref": _purl(one.package, one.version)}],
            }
            for one in scanned.hits
        ],
    }


def _component(part: Part) -> dict[str, Any]:
    purl = _purl(part.name, part.version)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": part.name,
        "version": part.version,
        "purl": purl,
    }
    if part.sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": part.sha256}]
    licences = _licences(part.licence)
    return found | ({"licenses": licences} if licences else {})


def _licences(licence: Licence) -> list[dict[str, Any]]:
    if licence.expression:
        return [{"expression": licence.expression}]
    return [{"license": {"name": name}} for name in licence.names]


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{quote(name, safe='')}@{quote(version, safe='')}"
