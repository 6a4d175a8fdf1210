"""A bound on what is loaded: who is given up, and when."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.errors import EngineError
from engines.resident import Resident


class Counted:
    """Something whose living instances are counted."""

    alive = 0

    def __init__(self) -> None:
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


def use(resident: Resident[str], keys: str) -> list[str]:
    """Use the keys in turn; returns those that had to be loaded."""
    loaded: list[str] = []

    def load() -> str:
        loaded.append(key)
        return key

    for key in keys:
        assert resident.get(key, load) == key
    return loaded


def test_the_one_used_longest_ago_is_given_up() -> None:
    assert use(Resident(2), "abacab") == list("abcb")


def test_without_a_bound_everything_stays() -> None:
    assert use(Resident(None), "abcabc") == list("abc")


def test_what_is_given_up_is_gone_before_the_next_is_loaded() -> None:
    resident, seen = Resident[Counted](1), list[int]()

    def load() -> Counted:
        seen.append(Counted.alive)
        return Counted()

    for key in "abc":
        resident.get(key, load)
    assert seen == [0, 0, 0]


def test_what_is_forgotten_is_loaded_again() -> None:
    resident = Resident[str](None)
    assert use(resident, "ab") == list("ab")
    for key in "ac":
        resident.forget(key)
    assert use(resident, "ab") == ["a"]


def test_threads_load_a_thing_once() -> None:
    resident, loaded = Resident[str](2), list[str]()

    def load() -> str:
        time.sleep(0.05)
        loaded.append("a")
        return "a"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: resident.get("a", load), range(8))) == ["a"] * 8
    assert loaded == ["a"]


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(EngineError, match="0 graphs may be resident, but one has to be"):
        Resident(0)
