"""One reader of images for all sides: tokens, sizes and places agree."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from isentropic.images import Images, banned_tokens

PAD = 9


@pytest.fixture
def images():
    """Reads images of 1 to 16 tokens; a token shows 28 x 28 pixels."""
    processor = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2)
    return Images(processor, limits=(28**2, 16 * 28**2), token_id=PAD)


@pytest.fixture
def picture(tmp_path):
    def save(width, height, mode="RGB", colour="red"):
        path = tmp_path / f"{mode}-{width}x{height}.png"
        Image.new(mode, (width, height), colour).save(path)
        return str(path)

    return save


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        pytest.param(56, 28, (56, 28), id="fits as it is"),
        pytest.param(60, 30, (56, 28), id="to the nearest multiple of 28"),
        pytest.param(280, 280, (112, 112), id="at most 16 tokens"),
        pytest.param(10, 10, (28, 28), id="at least one token"),
    ],
)
def test_size(images, picture, width, height, size):
    path = picture(width, height)
    assert images.read(path).size == size
    assert images.num_tokens(path) == size[0] * size[1] // 28**2
    patches = images.patches(path)
    assert patches.grid.tolist() == [1, size[1] // 14, size[0] // 14]
    assert len(patches.pixels) == patches.grid.prod()


def test_an_image_at_its_final_size_is_left_alone_by_the_processor(images, picture):
    """An engine whose processor scales images with another library sees the same pixels."""
    path = picture(60, 30)
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28**2, max_pixels=16 * 28**2
    )
    scaled = processor(images=[images.read(path)], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(scaled, images.patches(path).pixels)


def test_what_is_transparent_is_white(images, picture):
    assert images.read(picture(28, 28, "RGBA", (0, 0, 0, 0))).getpixel((3, 3)) == (255, 255, 255)


def test_tokens_are_expanded_and_collapsed(images, picture):
    media = (picture(28, 28), picture(56, 28))
    short = np.array([1, PAD, 2, PAD, 3])
    long = images.expand(short, media, "p")
    assert long.tolist() == [1, PAD, 2, PAD, PAD, 3]
    assert images.collapse(long).tolist() == short.tolist()


def test_as_many_places_as_images(images, picture):
    with pytest.raises(ValueError, match=r"prompt p with 1 image\(s\) has 2 place\(s\)"):
        images.expand(np.array([PAD, 1, PAD]), (picture(28, 28),), "p")


def test_a_file_that_is_no_image_is_named(images, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    for name in ("torn.png", "missing.png"):
        with pytest.raises(ValueError, match=rf"{name} cannot be opened"):
            images.num_tokens(str(tmp_path / name))


def test_only_models_with_images_have_tokens_that_are_never_written():
    assert banned_tokens(SimpleNamespace(model_type="qwen3")) == ()
    config = SimpleNamespace(model_type="qwen2_5_vl", image_token_id=5, video_token_id=6)
    assert banned_tokens(config) == (5, 6)
