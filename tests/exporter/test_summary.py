"""A SubNet in figures."""

from __future__ import annotations

import dataclasses

from exporter.summary import summarise
from search.subnet import SubNet
from tests.toys import chain, subnet


def with_attention() -> SubNet:
    """A chain of blocks; half of the cost of block `a` is attention products."""
    topology = chain()
    segments = [
        dataclasses.replace(segment, attention=50 if segment.targets == {0} else 0)
        for segment in topology.segments
    ]
    return subnet(dataclasses.replace(topology, segments=tuple(segments)), "RRR", "cRR")


def test_attention_products_are_counted_apart() -> None:
    found = summarise(with_attention())
    assert (found["macs_full"], found["macs_kept"]) == (602, 502)
    assert found["macs_full_without_attention"] == 502
    assert found["macs_kept_without_attention"] == 452
    assert found["keep_without_attention"] == 452 / 502


def test_the_count_survives_json() -> None:
    original = with_attention()
    assert summarise(SubNet.from_json(original.to_json(), "x")) == summarise(original)


def test_a_file_that_does_not_say_gives_no_count() -> None:
    data = with_attention().to_json()
    del data["topology"]["attention"]
    found = summarise(SubNet.from_json(data, "x"))
    assert found["keep"] == 502 / 602
    assert found["keep_without_attention"] is None
