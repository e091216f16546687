"""Thumbnails and their differences: what is new, and what is only noise."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fastvlm_mlx.processing.video import ChangeDetector
from fastvlm_mlx.processing.video.change import difference, drift, thumbnail


def room() -> Image.Image:
    """Something with light and shade: 320 x 200."""
    ramp = np.linspace(60, 180, 320)[None, :, None] + np.zeros((200, 320, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def noisy(image: Image.Image, sigma: float, seed: int) -> Image.Image:
    chance = np.random.default_rng(seed)
    pixels = np.asarray(image) + chance.normal(0, sigma, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def with_face(image: Image.Image) -> Image.Image:
    """With something of 2 % of the area in it."""
    image = image.copy()
    ImageDraw.Draw(image).ellipse((40, 40, 82, 82), (230, 180, 150))
    return image


@pytest.mark.parametrize("sigma", [0, 10, 30])
def test_noise_is_nothing_new(sigma: float):
    detector = ChangeDetector()
    assert detector.is_new(noisy(room(), sigma, 0))
    for seed in range(1, 6):
        assert not detector.is_new(noisy(room(), sigma, seed))


@pytest.mark.parametrize("sigma", [0, 10, 30])
def test_a_face_is_new_once(sigma: float):
    detector = ChangeDetector()
    detector.is_new(noisy(room(), sigma, 0))
    assert detector.is_new(noisy(with_face(room()), sigma, 1))
    assert not detector.is_new(noisy(with_face(room()), sigma, 2))
    assert detector.is_new(noisy(room(), sigma, 3))


def test_a_colour_of_the_same_brightness_is_new():
    detector = ChangeDetector()
    detector.is_new(Image.new("RGB", (64, 64), (118, 0, 0)))
    assert detector.is_new(Image.new("RGB", (64, 64), (0, 60, 0)))


def test_the_size_does_not_count():
    detector = ChangeDetector()
    detector.is_new(room())
    assert detector.difference(room().resize((1280, 800))) < 0.01
    assert ChangeDetector().difference(room()) == 1.0


def test_a_difference_keeps_nothing():
    detector = ChangeDetector()
    detector.is_new(room())
    assert detector.difference(with_face(room())) > 0.01
    assert detector.difference(with_face(room())) > 0.01


def test_a_thumbnail_is_the_mean_of_its_cells():
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    means = pixels.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.allclose(thumbnail(Image.fromarray(pixels)), means)


def test_noise_drifts_less_than_light():
    first, second = (thumbnail(noisy(room(), 10, seed)) for seed in (1, 2))
    brighter = thumbnail(Image.fromarray(np.asarray(room()) + 4))
    assert drift(first, second) < 1 < drift(thumbnail(room()), brighter)
    assert difference(thumbnail(room()), brighter) == 0
