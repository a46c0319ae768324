from __future__ import annotations

import pytest
from envs_kit import make_index, make_lock, make_sdist, make_wheel, sha256
from pypi_simple import NoSuchProjectError, ProjectPage

from bridgehold.errors import ConfigError, EnvironmentBuildError
from bridgehold.sandbox.envs.index import Candidate, choose, resolve
from bridgehold.sandbox.envs.sources import find_sources, parse_pip_settings, shown
from bridgehold.sandbox.envs.values import Pin, Sources

H = "a" * 64


def no_network(index, project):
    raise AssertionError(f"{index} was asked for {project}")


def nothing_there(index, project):
    raise NoSuchProjectError(project, index)


def test_the_index_is_the_first_that_is_named():
    environ = {"UV_DEFAULT_INDEX": "https://a/", "UV_INDEX_URL": "https://b/", "PIP_INDEX_URL": "https://c/"}
    settings = {"index-url": "https://d/"}
    for name in ("https://a/", "https://b/", "https://c/"):
        assert find_sources(environ, settings).indexes == (name,)
        environ.pop(next(key for key, value in environ.items() if value == name))
    assert find_sources({}, settings).indexes == ("https://d/",)
    assert find_sources({}, {}).indexes[0].startswith("https://")
    assert find_sources({"UV_DEFAULT_INDEX": "https://a/"}, settings, index="https://z/").indexes == (
        "https://z/",
    )
    assert find_sources({"PIP_NO_INDEX": "1"}, settings).indexes == ()


def test_pip_conf_gives_folders_and_local_indexes_which_come_first():
    settings = parse_pip_settings(
        "[global]\nfind-links = /srv/wheels\nextra-index-url = file:///srv/a file:///srv/b\ncert = /ca.pem\n",
        "pip.conf",
    )
    sources = find_sources({"PIP_INDEX_URL": "https://c/"}, settings)
    assert sources.folders == ("/srv/wheels",)
    assert sources.indexes == ("file:///srv/a", "file:///srv/b", "https://c/")
    assert sources.certificates == "/ca.pem"


def test_a_broken_pip_conf_or_index_is_a_typed_error():
    with pytest.raises(ConfigError):
        parse_pip_settings("index-url = x\n", "pip.conf")
    with pytest.raises(ConfigError):
        find_sources({"UV_DEFAULT_INDEX": "ftp://a/"}, {})


def test_a_password_in_an_index_url_is_never_shown():
    assert shown("https://user:pass-word@host:8443/simple/?token=x") == "https://host:8443/simple/"


def test_the_best_tag_wins_among_files_the_lock_allows(interpreter):
    pin = Pin(name="pkg", version="1.0", hashes=(H, "b" * 64))
    own = interpreter.tags[0]
    pure = Candidate(filename="pkg-1.0-py3-none-any.whl", url="", sha256=H)
    native = Candidate(filename=f"pkg-1.0-{own}.whl", url="", sha256="b" * 64)
    foreign = Candidate(filename="pkg-1.0-cp27-cp27m-win32.whl", url="", sha256=H)
    unlocked = Candidate(filename=f"pkg-1.0-1-{own}.whl", url="", sha256="c" * 64)
    unhashed = Candidate(filename=f"pkg-1.0-2-{own}.whl", url="", sha256="")
    assert choose(pin, [pure, foreign, unlocked, unhashed, native], interpreter.tags) == native
    assert choose(pin, [pure, foreign, unlocked, unhashed], interpreter.tags) == pure
    assert choose(pin, [foreign, unlocked, unhashed], interpreter.tags) is None


def test_other_versions_names_and_file_names_with_folders_are_not_taken(interpreter):
    pin = Pin(name="pkg", version="1.0", hashes=(H,))
    names = (
        "pkg-1.1-py3-none-any.whl",
        "pkg2-1.0-py3-none-any.whl",
        "../pkg-1.0-py3-none-any.whl",
        "pkg-1.0.tar.gz",
    )
    assert choose(pin, [Candidate(filename=n, url="", sha256=H) for n in names], interpreter.tags) is None


def test_local_indexes_and_folders_are_enough(tmp_path, dist, interpreter):
    wheel = make_wheel(dist)
    pin = make_lock(wheel).pins[0]
    for sources in (
        Sources(indexes=(make_index(tmp_path, [wheel]), "https://a/")),
        Sources(folders=(str(dist),), indexes=("https://a/",)),
    ):
        chosen, allowed = resolve(pin, sources, interpreter.tags, no_network)
        assert chosen.sha256 == sha256(wheel)
        assert allowed == (chosen,)


def test_a_missing_package_names_package_places_and_remedy(interpreter):
    pin = Pin(name="nowhere", version="1.0", hashes=(H,))
    with pytest.raises(EnvironmentBuildError, match=r"nowhere 1\.0: no index has") as caught:
        resolve(pin, Sources(indexes=("https://user:pw@a/simple/",)), interpreter.tags, nothing_there)
    assert caught.value.where == "https://a/simple/"
    assert caught.value.hint


def test_a_remote_index_names_no_file_of_this_machine(interpreter):
    """A FIFO of this machine would keep the build for ever, whoever runs it."""
    pin = Pin(name="pkg", version="1.0", hashes=(H,))

    def page(index, project):
        links = "".join(
            f'<a href="{base}pkg-1.0-py3-none-any.whl#sha256={H}">pkg-1.0-py3-none-any.whl</a>'
            for base in ("file:///tmp/", "FILE://localhost/", "data:,", "http+unix://x/")
        )
        return ProjectPage.from_html(project, links, base_url=index)

    with pytest.raises(EnvironmentBuildError, match="no index has"):
        resolve(pin, Sources(indexes=("https://a/simple/",)), interpreter.tags, page)


def test_a_version_with_only_an_sdist_is_refused_and_nothing_is_built(tmp_path, dist, interpreter):
    canary = tmp_path / "canary"
    sdist = make_sdist(dist, canary)
    with pytest.raises(EnvironmentBuildError, match="only a source distribution"):
        resolve(
            make_lock(sdist).pins[0],
            Sources(indexes=(make_index(tmp_path, [sdist]),)),
            interpreter.tags,
            no_network,
        )
    assert not canary.exists()


def test_no_wheel_for_this_python_names_the_tags_that_exist(tmp_path, dist, interpreter):
    wheels = [make_wheel(dist, tag=tag) for tag in ("cp27-cp27m-win32", "cp27-cp27m-manylinux1_i686")]
    pin = Pin(name="demo-pkg", version="1.0", hashes=tuple(sha256(w) for w in wheels))
    with pytest.raises(EnvironmentBuildError, match="cp27-cp27m-manylinux1_i686, cp27-cp27m-win32"):
        resolve(pin, Sources(indexes=(make_index(tmp_path, wheels),)), interpreter.tags, no_network)


def test_replaced_files_are_a_hash_mismatch(tmp_path, dist, interpreter):
    wheel = make_wheel(dist)
    pin = Pin(name="demo-pkg", version="1.0", hashes=(H,))
    with pytest.raises(EnvironmentBuildError, match="hash mismatch"):
        resolve(pin, Sources(indexes=(make_index(tmp_path, [wheel]),)), interpreter.tags, no_network)
