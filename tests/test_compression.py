"""Bits per dimension of PNG and WebP: the files decode, and a model has the same scale."""

import io

import numpy as np
import pytest
from PIL import Image

from vae_keras import compression, evaluation
from vae_keras.utils import checks

NOISE = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("format", compression.FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_takes_eight_bits_and_a_constant_next_to_nothing(format, channels):
    noise = NOISE[..., :channels]
    assert 7.9 < compression.bits_per_dimension(noise, format).mean < 9.0
    assert compression.bits_per_dimension(0 * noise + 7, format).mean < 0.4
    levels = compression.bits_per_dimension(noise / np.float32(255), format)
    np.testing.assert_array_equal(
        levels.per_example, compression.bits_per_dimension(noise, format).per_example
    )


@pytest.mark.parametrize("format", compression.FORMATS)
def test_the_formats_are_without_loss_and_the_headers_have_that_length(format):
    headers, options = compression._FORMATS[format]
    file = io.BytesIO()
    Image.fromarray(NOISE[0]).save(file, **options)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), NOISE[0])
    content = file.getvalue()
    if format == "png":  # signature, IHDR, and the frames of one IDAT and of IEND
        assert content.count(b"IDAT") == 1
        size = int.from_bytes(content[33:37], "big")
    else:  # RIFF and the frame of VP8L
        size = int.from_bytes(content[16:20], "little")
    assert 0 <= len(content) - size - headers <= 1  # WebP fills up to an even length


def test_other_images_and_formats_are_refused():
    with pytest.raises(checks.InputError, match="format"):
        compression.bits_per_dimension(NOISE, "gif")
    with pytest.raises(checks.InputError, match="multiples of 1 / 255"):
        compression.bits_per_dimension(np.full((1, 4, 4, 3), 0.1234, np.float32), "png")


def test_bits_follow_from_nats():
    nats = np.log(2.0) * np.array([3.0, 5.0])
    np.testing.assert_allclose(nats * evaluation.bits_per_nat((2, 1, 1)), [1.5, 2.5])
