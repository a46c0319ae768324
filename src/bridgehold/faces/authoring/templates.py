"""The files of a new bridge, as text (pure). It runs and its tests pass before a line is changed."""

from __future__ import annotations

import json
import keyword
import re

from bridgehold.faces.authoring.scripts import Handler, ScriptFacts

_MANIFEST = """\
name = "{name}"
version = "0.1.0"
summary = "{summary}"
entry = "{module}:{title}"
python = ">=3.10"
{environment}{resources}"""
_ENVIRONMENT = 'requirements = "requirements.in"\nlock = "requirements.lock"\n'
_HELLO_RESOURCES = """
[resources.greeting]
summary = "A way of greeting"

[operations.create_greeting]
summary = "Keep a way of greeting"
effect = "create"
resource = "greeting"
id_field = "id"
[operations.create_greeting.arguments]
required = ["words"]
[operations.create_greeting.arguments.properties]
words = { type = "string", minLength = 1, maxLength = 200, examples = ["Hello, {name}!"] }
id = { type = "string" }

[operations.greet]
summary = "Greet somebody"
effect = "run"
resource = "greeting"
id_field = "greeting_id"
[operations.greet.arguments]
required = ["greeting_id", "name"]
properties = { greeting_id = { type = "string" }, name = { type = "string", maxLength = 200 } }
"""
_HELLO_BRIDGE = '''\
"""{summary}. Runs inside the sandbox; bridgehold_sdk is there without being installed."""

from bridgehold_sdk import Bridge, InvalidInput, Store, operation


class {title}(Bridge):
    name = "{name}"
    version = "0.1.0"

    def open(self, session):
        self.greetings = Store("greeting")

    @operation(effect="create", resource="greeting", id_field="id")
    def create_greeting(self, words, id=None):
        if "{{name}}" not in words:
            raise InvalidInput("the words have a place for {{name}}")
        return {{"greeting_id": self.greetings.add(words, id)}}

    @operation(effect="run", resource="greeting", id_field="greeting_id")
    def greet(self, greeting_id, name):
        return {{"text": self.greetings.get(greeting_id).replace("{{name}}", name)}}
'''
_HELLO_TEST = '''\
"""Run with `pytest {folder}`: each test has a sandbox of its own, under the bridge's own policy."""

import pytest

from bridgehold import BridgeholdError


@pytest.mark.bridge({name!r})
def test_it_greets(bridge):
    bridge.run("create_greeting", {{"id": "formal", "words": "Good day, {{name}}."}})
    assert bridge.run("greet", {{"greeting_id": "formal", "name": "Ada"}}) == {{"text": "Good day, Ada."}}


@pytest.mark.bridge({name!r})
def test_what_makes_no_sense_is_refused(bridge):
    with pytest.raises(BridgeholdError) as caught:
        bridge.run("create_greeting", {{"words": "no place"}})
    assert caught.value.code == "usage"
'''
_POLICY = """\
# What {name} may do. Nothing else is granted: see `bridgehold policy explain {name}`.

extends = "baseline"

[operations]
allow = ["{name}:*"]
"""
_README = """\
# {name}

{summary}.

```
bridgehold run {name}:{first} --args '{arguments}'
bridgehold bridge check {name}
bridgehold chaos {name}
pytest {folder}
```
"""


def new_bridge(name: str, folder: str) -> dict[str, str]:
    """File names → texts of a bridge that greets; ``policy`` goes to the policies' folder."""
    summary = "A bridge that greets, to begin from"
    facts = {"name": name, "title": _title(name), "summary": summary, "folder": folder}
    module = f"{_module(name)}_bridge"
    arguments = json.dumps({"words": "Hello, {name}!", "id": "hello"})
    return {
        "bridge.toml": _MANIFEST.format(**facts, module=module, environment="", resources=_HELLO_RESOURCES),
        f"{module}.py": _HELLO_BRIDGE.format(**facts),
        f"test_{_module(name)}.py": _HELLO_TEST.format(**facts),
        "README.md": _README.format(**facts, first="create_greeting", arguments=arguments),
        "policy": _POLICY.format(**facts),
    }


def bridge_from(name: str, folder: str, script: str, facts: ScriptFacts) -> dict[str, str]:
    """A draft that has the script's commands as operations, and says what is to be filled in."""
    script = re.sub(r"[^\w. -]", "_", script, flags=re.ASCII)
    summary = f"The commands of {script}"
    known = {"name": name, "title": _title(name), "summary": summary, "folder": folder}
    module = f"{_module(name)}_bridge"
    resources = "".join(_operation(handler) for handler in facts.handlers)
    environment = _ENVIRONMENT if facts.imports else ""
    first = facts.handlers[0]
    arguments = json.dumps(dict.fromkeys(first.required, "…"), ensure_ascii=False)
    files = {
        "bridge.toml": _MANIFEST.format(**known, module=module, environment=environment, resources=resources),
        f"{module}.py": _class(known, script, facts.handlers),
        "README.md": _README.format(**known, first=first.name, arguments=arguments),
        "policy": _POLICY.format(**known),
    }
    if facts.imports:
        files["requirements.in"] = "".join(f"{package}\n" for package in facts.imports)
        files["requirements.lock"] = ""
    return files


def _operation(handler: Handler) -> str:
    properties: dict[str, object] = {key: {} for key in (*handler.required, *handler.optional)}
    listed = ", ".join(f"{_quoted(key)} = {{}}" for key in properties)
    text = f"\n[operations.{handler.name}]\nsummary = {_quoted(handler.summary or handler.name)}\n"
    text += f'effect = "{handler.effect}"\n[operations.{handler.name}.arguments]\n'
    if handler.required:
        text += f"required = [{', '.join(map(_quoted, handler.required))}]\n"
    return text + (f"properties = {{ {listed} }}\n" if listed else "properties = {}\n")


def _class(known: dict[str, str], script: str, handlers: tuple[Handler, ...]) -> str:
    text = (
        f'"""{known["summary"]}, as a bridge: move each handler\'s body into its method."""\n\n'
        f"from bridgehold_sdk import Bridge, operation\n\n\n"
        f'class {known["title"]}(Bridge):\n    name = "{known["name"]}"\n    version = "0.1.0"\n'
    )
    for handler in handlers:
        given = [*handler.required, *(f"{key}=None" for key in handler.optional)]
        names = [one for one in given if not keyword.iskeyword(one.partition("=")[0])]
        parameters = f", *, {', '.join(names)}" if names else ""
        text += (
            f'\n    @operation(effect="{handler.effect}")\n    def {handler.name}(self{parameters}):\n'
            f'        raise NotImplementedError("the body of {script}\'s {handler.name} belongs here")\n'
        )
    return text


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are its own but for what is beyond the first plane."""
    return json.dumps("".join(c if c.isprintable() else " " for c in text), ensure_ascii=False)


def _module(name: str) -> str:
    return name.replace("-", "_")


def _title(name: str) -> str:
    return "".join(part.title() for part in _module(name).split("_")) or "New"
