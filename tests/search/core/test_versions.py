"""Versions of packages, installed or not."""

from __future__ import annotations

from importlib import metadata

from search.core.versions import installed, version_of, versions_of


def test_only_packages_that_are_installed_have_a_version() -> None:
    assert versions_of(("numpy", "no-such-package")) == {"numpy": metadata.version("numpy")}
    assert version_of("no-such-package") == ""


def test_a_module_has_the_version_of_what_provides_it() -> None:
    assert installed("numpy") == {"numpy": metadata.version("numpy")}
    assert installed("no_such_module") == {}
