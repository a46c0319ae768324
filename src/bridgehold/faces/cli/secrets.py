"""`bridgehold secrets set | list | rm`: values come from a prompt or stdin, and are never printed."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from typing import Annotated

import typer

from bridgehold.audit.key_shapes import find_shape
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.errors import UsageError
from bridgehold.faces.cli.border import NEVER_TYPED
from bridgehold.faces.cli.known import slip_for, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT, nearest, parse_name
from bridgehold.keeper.admin import SecretAdmin

Name = Annotated[str, typer.Argument(help="The secret's name, usually its provider's: openai.")]
Tenant = Annotated[str, typer.Option(help="Whose key it is.", callback=typed_tenant)]
_MAX_BYTES = 64 * 1024


def set_secret(
    name: Name,
    tenant: Tenant = LOCAL_TENANT,
    provider: Annotated[
        str, typer.Option(help="Bind it to this provider; the one whose configuration names it, if left out.")
    ] = "",
    allow_env: Annotated[
        bool, typer.Option("--allow-env", help="Weakening: a policy may put it into a sandbox's environment.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Keep a key. Type it at the prompt, or pipe it in; a running host sees it within 5 s."""
    if find_shape(name):
        raise UsageError(
            "that is a key, and no secret's name", where="NAME", hint=f"Such as openai. {NEVER_TYPED}"
        )
    parse_name(name, "secret")
    parse_name(tenant, "tenant")
    words = [name, *(["--tenant", tenant] if tenant != LOCAL_TENANT else [])]
    words += [*(["--provider", provider] if provider else []), *(["--allow-env"] if allow_env else [])]
    value = _read_value(words)
    admin = _admin()
    admin.set(tenant, name, value, allow_env=allow_env, provider=provider)
    if json_output:
        print_json({"tenant": tenant, "name": name, "store": admin.store})
    else:
        err.say(f"kept {name} of {tenant} in the {admin.store} store")
    tell_slips(tenant, name, provider)


def tell_slips(tenant: str, name: str, provider: str) -> None:
    """Any name may be a key's, also of what is still to come: said, not refused."""
    layout = default_layout()
    providers = load_config(layout.config_file).providers
    if provider and provider not in (*providers, "push"):
        near = nearest(provider, providers)
        err.say(
            f"there is no [providers.{provider}] in {layout.config_file}{near}: nobody is shown this key yet"
        )
    asked = {section.secret or each for each, section in providers.items()}
    for entry in Catalogue.load([layout.bridges], layout.tenants).list():
        if entry.manifest is not None and entry.tenant in ("", tenant):
            asked.update(secret.name for secret in entry.manifest.needs.secrets)
    if not provider and (near := slip_for(name, asked)):
        remedy = f"`bridgehold secrets rm {name}{'' if tenant == LOCAL_TENANT else f' --tenant {tenant}'}`"
        err.say(f"no provider and no bridge asks for {name!r}{near}: if it is a slip, {remedy} forgets it")


def _read_value(words: list[str]) -> bytes:
    """From a prompt or a pipe; `words`: the secret's name, and what else was typed."""
    if sys.stdin.isatty():
        try:
            value = getpass.getpass(f"{words[0]} (not shown): ").encode()
        except UnicodeError:
            raise UsageError("a secret is printable text in UTF-8", hint="Look at the locale.") from None
    else:
        value = sys.stdin.buffer.read(_MAX_BYTES + 1).removesuffix(b"\n")
    if not value or len(value) > _MAX_BYTES:
        why = "more than 64 KiB came, and no key is so long" if value else "no key came"
        raise UsageError(
            why,
            where="standard input",
            hint=f"Pipe it in: pass show {words[0]} | bridgehold secrets set {shlex.join(words)}",
        )
    return value


def list_secrets(
    json_output: Json = False,
) -> None:
    """Names, tenants and stores; never a value."""
    found = _admin().list()
    if json_output:
        print_json(found)
        return
    rows = [(r.tenant, r.name, r.store, "yes" if r.allow_env else "", str(r.created)) for r in found]
    table(("tenant", "name", "store", "allow-env", dim("since")), rows, empty="no key is stored")


def remove_secret(name: Name, tenant: Tenant = LOCAL_TENANT, json_output: Json = False) -> None:
    """Forget a key; streams that use it end within 5 s."""
    _admin().remove(tenant, name)
    if json_output:
        print_json({"removed": name, "tenant": tenant})
    else:
        out.say(f"removed {name} of {tenant}")


def _admin() -> SecretAdmin:
    layout = default_layout()
    return SecretAdmin.for_layout(
        layout,
        load_config(layout.config_file),
        credentials_directory=os.environ.get("CREDENTIALS_DIRECTORY", ""),
    )
