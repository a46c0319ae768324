"""``bridge.toml``: what is read, what is refused, and that arguments are checked against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgehold.bridges import schema, schema_form
from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import load_manifest, parse_manifest
from bridgehold.errors import ManifestError, NotFoundError, UsageError
from bridgehold.policies.model import Endpoint, SecretGrant

GOOD = """\
name = "toy"
version = "1.2.0"
summary = "A toy"
entry = "toy_bridge:Toy"
python = ">=3.11"
requirements = "requirements.in"
lock = "requirements.lock"

[preload]
modules = ["json", "email.message"]

[[needs.endpoints]]
provider = "openai"
paths = ["/chat/completions", "/models/*"]

[[needs.secrets]]
name = "openai"
provider = "openai"

[needs.limits]
memory = "1GiB"
cpu = 0.5
command = "2m"
processes = 16

[resources.thing]
summary = "A thing"
recovery = "replay"

[operations.make]
summary = "Make a thing"
effect = "create"
resource = "thing"
id_field = "id"
timeout = "30s"
[operations.make.arguments]
required = ["size"]
[operations.make.arguments.properties]
id = { type = "string", maxLength = 5 }
size = { type = "integer", minimum = 1, maximum = 9 }

[operations.look]
summary = "Look around"
effect = "read"
stream = true
idempotent = true
"""


def parse(text: str) -> Manifest:
    return parse_manifest(text, Path("/b/toy"))


def faults(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert caught.value.hint
    return caught.value.message


def test_a_manifest_is_read_as_it_is_written() -> None:
    manifest = parse(GOOD)
    assert (manifest.name, manifest.version, manifest.entry) == ("toy", "1.2.0", "toy_bridge:Toy")
    assert manifest.preload == ("json", "email.message")
    assert manifest.lock_path == Path("/b/toy/requirements.lock")
    assert manifest.providers == ("openai",)
    assert manifest.needs.endpoints == (
        Endpoint(provider="openai", methods=("POST",), paths=("/chat/completions", "/models/*")),
    )
    assert manifest.needs.secrets == (SecretGrant(name="openai", provider="openai"),)
    assert manifest.needs.operations == ("toy:make", "toy:look")
    assert manifest.needs.resources == ("thing",)
    assert manifest.needs.limits == {
        "memory_bytes": 1 << 30,
        "cpu_millis": 500,
        "command_ms": 120_000,
        "processes": 16,
    }
    make, look = manifest.operations["make"], manifest.operations["look"]
    assert (make.effect, make.resource, make.id_field, make.timeout_ms) == ("create", "thing", "id", 30_000)
    assert (look.stream, look.idempotent, look.timeout_ms) == (True, True, 0)
    assert manifest.resources["thing"].recovery == "replay"
    assert manifest.digest.startswith("sha256:")


def test_every_fault_is_named_at_once_with_line_and_nearest_key() -> None:
    text = (
        GOOD.replace('version = "1.2.0"', 'vershion = "1.2.0"')
        .replace('effect = "create"', 'effect = "creat"')
        .replace('timeout = "30s"', 'timeout = "30 parsecs"')
        .replace("idempotent = true", "idempotant = true")
        .replace('memory = "1GiB"', 'memory = "1 gigabyte"')
        .replace("maxLength = 5", "maxLenght = 5")
    )
    message = faults(text)
    assert message.startswith("7 fault(s):")
    for part in (
        "/b/toy/bridge.toml:2: vershion: unknown key (nearest: 'version')",
        "version: missing",
        "/b/toy/bridge.toml:32: operations.make.effect: one of create, read, run, delete, configure",
        "(nearest: 'create')",
        "/b/toy/bridge.toml:35: operations.make.timeout: '30 parsecs'",
        "/b/toy/bridge.toml:46: operations.look.idempotant: unknown key (nearest: 'idempotent')",
        "/b/toy/bridge.toml:21: needs.limits.memory: '1 gigabyte'",
        "/b/toy/bridge.toml:39: operations.make.arguments.properties.id: 'maxLenght' is not supported",
        "(nearest: 'maxLength')",
    ):
        assert part in message, message


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "toy"', 'name = "Toy"', "name: lower-case"),
        ('name = "toy"', 'name = "common"', "Bridgehold's own"),
        ('name = "toy"', "name = 3", "name: text of at most"),
        ('version = "1.2.0"', 'version = "one"', "a version such as"),
        ('entry = "toy_bridge:Toy"', 'entry = "../evil:Toy"', "MODULE:CLASS is expected"),
        ('entry = "toy_bridge:Toy"', 'entry = "toy_bridge"', "MODULE:CLASS is expected"),
        ('python = ">=3.11"', 'python = "three"', "a specifier such as"),
        ('lock = "requirements.lock"', 'lock = "../../etc/passwd"', "a file below the bridge's folder"),
        ('lock = "requirements.lock"', 'lock = "/etc/passwd"', "a file below the bridge's folder"),
        ('lock = "requirements.lock"', "", 'write `lock = "requirements.lock"`'),
        ('"email.message"', '"os; import x"', "is no module"),
        ('"/models/*"', '"/../secret"', "is no path such as"),
        ('"/models/*"', '"models"', "is no path such as"),
        (
            'name = "openai"\nprovider = "openai"',
            'name = "openai"\nprovider = "other"',
            "bound to no provider",
        ),
        ("cpu = 0.5", "cpu = -1", "a number of cores"),
        ("processes = 16", "processes = true", "a whole number above 0"),
        ('recovery = "replay"', 'recovery = "again"', "one of lost, replay"),
        ("[resources.thing]", "[resources.object]", "[resources.thing] is not declared"),
        ('id_field = "id"', 'id_field = "name"', "'name' is no property"),
        ('resource = "thing"\nid_field = "id"\n', "", "'create' is an effect on a resource"),
        ("[operations.look]", '[operations."look at"]', "a name is lower-case"),
        ("stream = true", 'stream = "yes"', "true or false"),
        ('required = ["size"]', 'required = "size"', "a list of names"),
        ('required = ["size"]', 'type = "array"', "arguments are an object"),
        ("minimum = 1", 'minimum = "1"', "a number"),
        ('type = "integer"', 'type = "int"', "one of object, array"),
        ('type = "integer"', 'pattern = "(a+)+$"', "'pattern' is not supported"),
        ('type = "integer"', '"$ref" = "http://x/y"', "'$ref' is not supported"),
    ],
)
def test_a_wrong_value_is_refused(old: str, new: str, text: str) -> None:
    assert old in GOOD
    assert text in faults(GOOD.replace(old, new, 1))


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load_manifest(tmp_path)
    (tmp_path / "real").write_text(GOOD)
    (tmp_path / "bridge.toml").symlink_to(tmp_path / "real")
    with pytest.raises(ManifestError, match="no regular file"):
        load_manifest(tmp_path)
    (tmp_path / "bridge.toml").unlink()
    for content, text in (
        (b"name = \xff", "not UTF-8"),
        (b"=", "not TOML"),
        (b"#" * 600_000, "has more than"),
    ):
        (tmp_path / "bridge.toml").write_bytes(content)
        with pytest.raises(ManifestError, match=text):
            load_manifest(tmp_path)
    assert "not TOML" in faults("x = " + "[" * 100_000)
    assert "entry: missing" in faults("")


def test_arguments_are_checked_and_never_repeated() -> None:
    manifest = parse(GOOD)
    manifest.check_arguments("make", {"size": 3})
    manifest.check_arguments("make", {"size": 3.0, "id": "a"})
    manifest.check_arguments("look", {})
    with pytest.raises(UsageError) as caught:
        manifest.check_arguments("make", {"id": "sk-secret-value", "api_key": "sk-other-secret"})
    assert caught.value.message == (
        "arguments.size: missing; arguments.id: at most 5 characters expected, 15 given; "
        "arguments.api_key: unknown"
    )
    assert "secret" not in caught.value.message + caught.value.hint
    assert caught.value.hint == "toy:make takes id, size; required: size."
    for wrong in ({"size": 0}, {"size": 10}, {"size": True}, {"size": "3"}, {"size": None}, {"size": 1.5}):
        with pytest.raises(UsageError):
            manifest.check_arguments("make", dict(wrong))
    with pytest.raises(UsageError):
        manifest.check_arguments("look", {"x": 1})
    with pytest.raises(NotFoundError, match="no operation"):
        manifest.check_arguments("nothing", {})


@pytest.mark.parametrize(
    ("part", "fits", "does_not"),
    [
        ({}, [1, None, "x", [], {}], []),
        ({"type": ["string", "null"]}, ["", None], [1, [], {}, True]),
        ({"type": "number"}, [1, 1.5], [True, "1", None]),
        ({"type": "integer"}, [1, -3, 2.0], [1.5, False]),
        ({"enum": ["a", 1, None]}, ["a", 1, 1.0, None], ["b", True, 0]),
        ({"const": True}, [True], [1, "true"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1]),
        ({"minimum": 0, "maximum": 1}, [0, 1], [-0.1, 1.1]),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
            [["a"]],
            [[], [1], ["a"] * 3],
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1}], [{"a": "1"}]),
        (
            {"additionalProperties": True, "minProperties": 1, "maxProperties": 1},
            [{"a": 1}],
            [{}, {"a": 1, "b": 2}],
        ),
        ({"anyOf": [{"type": "string"}, {"required": ["x"]}]}, ["a", {"x": 1}], [{}]),
        ({"type": "object"}, [{}], [{"a": 1}]),
        ({"type": ["object", "null"]}, [{}, None], [{"a": 1}]),
        ({"properties": {"a": {}}}, [{}, {"a": {"b": 1}}, 3], [{"b": 1}]),
        ({"type": "array", "items": {"properties": {"a": {}}}}, [[{"a": 1}]], [[{"b": 1}]]),
        (
            {"additionalProperties": {"type": "object", "properties": {"a": {}}}},
            [{"x": {"a": 1}}],
            [{"x": {"b": 1}}],
        ),
    ],
)
def test_the_keywords_of_a_schema(
    part: dict[str, object], fits: list[object], does_not: list[object]
) -> None:
    assert schema_form.schema_problems(part, "s") == []
    for value in fits:
        assert schema.problems(part, value) == [], value
    for value in does_not:
        assert schema.problems(part, value), value
    written_out = schema_form.closed(part)
    assert schema_form.schema_problems(written_out, "s") == []
    assert [schema.problems(written_out, value) for value in (*fits, *does_not)] == [
        schema.problems(part, value) for value in (*fits, *does_not)
    ]


def test_a_hostile_schema_is_refused_and_a_long_answer_is_cut() -> None:
    nested: dict[str, object] = {}
    for _ in range(100):
        nested = {"items": nested}
    wide = {"properties": {f"p{number}": {} for number in range(2000)}}
    for hostile in (nested, wide, {"anyOf": [{}] * 100}, {"enum": list(range(10_000))}, [], "x"):
        assert schema_form.schema_problems(hostile, "s")
    many = schema.problems({"items": {"type": "string"}}, list(range(100_000)))
    assert len(many) == schema_form.MAX_PROBLEMS
