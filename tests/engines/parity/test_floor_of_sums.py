"""The sampler's own sums in the floor of a trajectory."""

from __future__ import annotations

import numpy as np
import pytest

from engines.parity.floor import ROUNDING, _summed


def test_terms_that_cancel_round_more_than_their_sum_shows() -> None:
    one = np.ones((1, 4))
    assert _summed(one, np.array([1000.0, -999.0]), [one, one]) == pytest.approx(1999 * ROUNDING)
    assert _summed(one, np.array([0.25, 0.75]), [one, one]) == pytest.approx(ROUNDING)


def test_what_the_noise_adds_counts_and_what_is_not_made_yet_does_not() -> None:
    one = np.ones((1, 4))
    assert _summed(one, np.array([3.0, 7.0]), [one]) == pytest.approx(5 * ROUNDING)
