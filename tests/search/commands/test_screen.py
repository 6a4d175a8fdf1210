"""Progress where people look: here no terminal, and what stands in for a notebook."""

from __future__ import annotations

import builtins

import pytest

import search


class ZMQInteractiveShell:
    """Named as the shell of a notebook's kernel, by which rich knows one."""


def test_a_notebook_shows_a_line_that_overwrites_itself_and_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    with search.progress() as report:
        report("open pipeline", None)
        report("search", 0.5)
    assert capsys.readouterr().out.split("\r") == [
        "", "open pipeline", "search (50%) ", " " * 12, "",
    ]  # fmt: skip


def test_the_line_goes_when_a_search_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)

    def interrupted() -> None:
        with search.progress() as report:
            report("search")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out.endswith("\r" + " " * 6 + "\r")


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with search.progress() as report:
        report("search", 0.5)
    assert capsys.readouterr() == ("", "")
