"""Emoji artwork, captions and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.emoji.artwork import Artwork, ArtworkError, plain_words, read_artwork
from examples.emoji.pictures import (
    BACKGROUNDS,
    Items,
    captions,
    compose,
    held_out_items,
    trained_items,
)
from examples.emoji.retrieval import emoji_of
from examples.emoji.text import caption_ids, make_tokenizer
from tests.examples.emoji_packages import write_packages


@pytest.fixture(scope="module")
def artwork(tmp_path_factory: pytest.TempPathFactory) -> Artwork:
    return read_artwork(write_packages(tmp_path_factory.mktemp("packages")))


def test_names_are_plain_and_unlike_and_twins_are_left_out(artwork: Artwork) -> None:
    assert artwork.names == (
        "red apple",
        "cote divoire flag",
        "keycap 7",
        "grinning face with big eyes",
        "man in tuxedo",
        "person in tuxedo",
    )
    assert artwork.others[0] == "apple"
    assert artwork.kinds[:2] == ("fruit", "flag")
    assert artwork.pictures.shape == (6, 2, 64, 64, 4)


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtworkError, match=r"emoji-datasource-google and .* install both with npm"):
        read_artwork(tmp_path)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    path = (
        write_packages(tmp_path) / "emoji-datasource-twitter" / "img" / "twitter" / "64" / "2.png"
    )
    Image.new("RGBA", (32, 32)).save(path)
    with pytest.raises(ArtworkError, match=r"2\.png' has the shape \(32, 32, 4\)"):
        read_artwork(tmp_path)


def test_words_keep_letters_and_digits_alone() -> None:
    assert plain_words("Heard & McDonald Islands: Flag-7") == "heard and mcdonald islands flag 7"


def test_no_emoji_is_trained_on_its_held_out_background() -> None:
    trained, held_out = trained_items(40), held_out_items(40)
    rows = [
        set(zip(*np.array([i.emoji, i.styles, i.backgrounds]), strict=True))
        for i in (trained, held_out)
    ]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 40 * 2 * len(BACKGROUNDS)
    counts = np.bincount(held_out.backgrounds, minlength=len(BACKGROUNDS))
    assert counts.min() == counts.max()


def test_a_seed_gives_the_same_pictures_and_they_show_what_they_say(artwork: Artwork) -> None:
    items = trained_items(len(artwork.names))
    first, second = (compose(artwork, items, np.random.default_rng(1), shift=2) for _ in range(2))
    assert np.array_equal(first, second)
    corners = first[:, 0, 0].astype(int)
    colours = np.array(list(BACKGROUNDS.values()))[items.backgrounds]
    assert np.abs(corners - colours).max() <= 7


def test_captions_name_style_emoji_and_background(artwork: Artwork) -> None:
    items = Items(np.array([3]), np.array([1]), np.array([4]))
    assert captions(artwork, items) == ["flat grinning face with big eyes on yellow"]
    assert emoji_of("flat grinning face with big eyes on yellow") == artwork.names[3]
    with pytest.raises(ValueError, match="'a red square' is no caption of an emoji"):
        emoji_of("a red square")


def test_every_word_is_one_token_and_no_caption_is_cut(artwork: Artwork) -> None:
    tokens, items = make_tokenizer(artwork), trained_items(len(artwork.names))
    texts = captions(artwork, items)
    assert [len(ids) - 2 for ids in tokens(texts).input_ids] == [
        len(text.split()) for text in texts
    ]
    ids = caption_ids(artwork, items, tokens)
    assert tokens.decode(ids[0, 0], skip_special_tokens=True).strip() == texts[0]
    assert tokens.decode(ids[1, 0], skip_special_tokens=True).strip() == texts[0].replace(
        "red ", "", 1
    )
    assert "red apple fruit" in tokens.decode(ids[2, 0])
