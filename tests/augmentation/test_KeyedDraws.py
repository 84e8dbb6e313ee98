from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.augmentation.KeyedDraws import Draws, _scramble

MANY = np.arange(100_000)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def test_the_numbers_are_splitmix64s() -> None:
    """The first outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for two seeds."""
    assert _scramble(np.array([1234567, 0], np.uint64)).tolist() == [6457827717110365317, 16294208416658607535]


def test_the_numbers_never_change() -> None:
    draws = Draws(2**64 - 1, 3, np.array([0, 1, 2**40]))
    assert draws.bits("crop.x").tolist() == [837483000927967692, 2903773975634250984, 10094182633116713181]
    assert draws.uniform("crop.x", -1, 1).tolist() == [-0.9091999110974218, -0.6851721947210476, 0.09441347402905897]
    assert draws.colours("erase", np.array([0, 0, 2]), np.array([0, 1, 1])).tolist() == [
        [67, 66, 85],
        [167, 15, 174],
        [16, 242, 235],
    ]


def test_a_number_depends_on_its_own_key_alone() -> None:
    together = Draws(7, 1, MANY[:50]).uniform("rotate")
    alone = [Draws(7, 1, MANY[k : k + 1]).uniform("rotate")[0] for k in range(50)]
    assert together.tolist() == alone
    assert Draws(7, 1, MANY[49::-1]).uniform("rotate").tolist() == alone[::-1]


@pytest.mark.parametrize("name", ["hflip", "crop.x"])
def test_numbers_are_uniform(name: str) -> None:
    numbers = Draws(0, 0, MANY).uniform(name)
    assert 0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    assert numbers.mean() == pytest.approx(1 / 2, abs=0.004)  # four deviations of such a mean
    assert numbers.var() == pytest.approx(1 / 12, abs=0.001)
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-squared, 99 degrees: one in 10,000 is above


def test_neighbouring_keys_are_unrelated() -> None:
    numbers = Draws(0, 0, MANY).uniform("hflip")
    others = {
        "index": Draws(0, 0, MANY + 1).uniform("hflip"),
        "epoch": Draws(0, 1, MANY).uniform("hflip"),
        "seed": Draws(1, 0, MANY).uniform("hflip"),
        "name": Draws(0, 0, MANY).uniform("vflip"),
        "seed and epoch exchanged": Draws(5, 0, MANY).uniform("hflip"),
    }
    for what, drawn in others.items():
        assert abs(correlation(numbers, drawn)) < 0.013, what
        assert not np.isin(numbers, drawn).any() or what == "index", what
    assert abs(correlation(Draws(0, 5, MANY).uniform("hflip"), others["seed and epoch exchanged"])) < 0.013


def test_every_bit_is_set_in_half_of_the_images() -> None:
    bits = Draws(0, 0, MANY).bits("hflip")
    shares = [((bits >> np.uint64(k)) & np.uint64(1)).mean() for k in range(64)]
    np.testing.assert_allclose(shares, 0.5, atol=0.008)


def test_chance_is_the_share_of_images() -> None:
    draws = Draws(0, 0, MANY)
    assert draws.chance("erase", 0.2).mean() == pytest.approx(0.2, abs=0.006)
    assert not draws.chance("erase", 0).any() and draws.chance("erase", 1).all()


def test_colours_of_pixels_are_uniform_and_unrelated() -> None:
    draws = Draws(0, 0, np.arange(2))
    first = draws.colours("erase", np.zeros(10_000, int), MANY[:10_000])
    second = draws.colours("erase", np.ones(10_000, int), MANY[:10_000])
    assert first.shape == (10_000, 3) and first.dtype == np.uint8
    np.testing.assert_allclose(first.mean(axis=0), 127.5, atol=3)
    assert abs(correlation(first.ravel(), second.ravel())) < 0.03
    assert abs(correlation(first[:-1].ravel(), first[1:].ravel())) < 0.03


def test_no_images_no_numbers() -> None:
    draws = Draws(0, 0, np.empty(0, np.int64))
    assert len(draws) == 0 and draws.uniform("crop.x").shape == (0,)
