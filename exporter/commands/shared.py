"""Options that several commands on bundles share, one decorator each."""

from __future__ import annotations

import cloup

from search.commands.shared import Decorator, option_group
from search.commands.values import AT_LEAST_1, PATH

bundle_argument: Decorator = cloup.argument("bundle", type=PATH)


SIZE_OPTIONS = (
    cloup.option(
        "--height",
        type=AT_LEAST_1,
        help="Use a variant for pictures of this height in pixels.  [default: the first variant's]",
    ),
    cloup.option(
        "--width",
        type=AT_LEAST_1,
        help="Use a variant for pictures of this width in pixels.  [default: the first variant's]",
    ),
)
"""Of the variants that are chosen among, the pictures' size."""


def variant_options(*more: Decorator) -> Decorator:
    """Which variant of a bundle: the first that fits what is given."""
    return option_group(
        "Variant",
        *SIZE_OPTIONS,
        cloup.option(
            "--num-images",
            "images",
            type=AT_LEAST_1,
            help="Use a variant for this many pictures per prompt.  [default: the first variant's]",
        ),
        *more,
    )
