"""Images of prompts, from references to pixels: one way for the controller, the engines and the learner.

Queues, ledgers and checkpoints hold references (paths) alone. Whoever needs pixels reads them here, so that all sides
see the same ones: an image is brought to its final size before it reaches any processor.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isentropic.records import Floats, Ints

KINDS = ("qwen2_vl", "qwen2_5_vl")  # model types whose images are understood here
# Added to the logits of image and video tokens, in engine and learner alike: a policy that wrote one would be read as
# having seen an image that is not there. e^-100 of anything is nothing in float32.
BANNED = -100.0
READ_IMAGES = 16  # kept: the requests of a group follow each other


def reads_images(config: Any) -> bool:
    """Whether a model with this Hugging Face config is given the images of its prompts."""
    return getattr(config, "model_type", None) in KINDS


def banned_tokens(config: Any) -> tuple[int, ...]:
    """Token ids that the policy never writes; none where the model reads text alone."""
    return (config.image_token_id, config.video_token_id) if reads_images(config) else ()


class Patches(NamedTuple):
    """One image, as the vision tower takes it."""

    pixels: Floats  # [P, D] normalised
    grid: Ints  # [3] time, height, width, in patches


class Images:
    """Reads images for one model.

    Args:
        processor: transformers' `Qwen2VLImageProcessorPil`, which needs no torchvision.
        limits: least and most pixels of an image, which is scaled to lie between; None: those of `processor`.
        token_id: stands in a prompt once for each token of an image.
    """

    def __init__(self, processor: Any, *, limits: tuple[int, int] | None, token_id: int) -> None:
        self.limits = (
            tuple(limits)
            if limits
            else (processor.size["shortest_edge"], processor.size["longest_edge"])
        )
        self.token_id = token_id
        self._processor = processor
        self._factor = processor.patch_size * processor.merge_size
        self.num_tokens = lru_cache(maxsize=65536)(self._num_tokens)
        self.read = lru_cache(maxsize=READ_IMAGES)(self._read)

    def expand(self, token_ids: Ints, media: tuple[str, ...], prompt_id: str) -> Ints:
        """The prompt with one token in the place of each image -> one for each token of the image."""
        found = int((token_ids == self.token_id).sum())
        if found != len(media):
            raise ValueError(
                f"prompt {prompt_id} with {len(media)} image(s) has {found} place(s) for them after the chat template. "
                "Give each image one place, '<image>' in its prompt's text, or none to have them all in front of it."
            )
        counts = np.ones(len(token_ids), dtype=np.int64)
        counts[token_ids == self.token_id] = [self.num_tokens(reference) for reference in media]
        return np.repeat(token_ids, counts)

    def collapse(self, token_ids: Ints) -> Ints:
        """One token for each run of image tokens, as vLLM wants to be given them."""
        image = token_ids == self.token_id
        again = np.zeros_like(image)
        again[1:] = image[1:] & image[:-1]
        return token_ids[~again]

    def patches(self, reference: str) -> Patches:
        """The image of `reference` for the vision tower."""
        out = self._processor(images=[self.read(reference)], do_resize=False, return_tensors="np")
        return Patches(
            np.asarray(out["pixel_values"], dtype=np.float32), np.asarray(out["image_grid_thw"][0])
        )

    def blank(self) -> Patches:
        """The smallest image there is, one token; for a microbatch without one, so that all ranks do the same."""
        from PIL import Image

        square = Image.new("RGB", (self._factor, self._factor))
        out = self._processor(images=[square], do_resize=False, return_tensors="np")
        return Patches(
            np.asarray(out["pixel_values"], dtype=np.float32), np.asarray(out["image_grid_thw"][0])
        )

    def _num_tokens(self, reference: str) -> int:
        with _opened(reference) as image:
            height, width = self._size(image.height, image.width, reference)
        return height * width // self._factor**2

    def _read(self, reference: str) -> Any:
        """The image in RGB at its final size; what is transparent is white."""
        from PIL import Image

        with _opened(reference) as image:
            height, width = self._size(image.height, image.width, reference)
            try:
                whole = image.convert("RGBA")
            except OSError as error:
                raise ValueError(
                    f"image {reference} cannot be read: {error}. Repair or replace the file."
                ) from error
        flat = Image.new("RGBA", whole.size, "white")
        flat.alpha_composite(whole)
        return flat.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    def _size(self, height: int, width: int, reference: str) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        low, high = self.limits
        try:
            return smart_resize(height, width, factor=self._factor, min_pixels=low, max_pixels=high)
        except ValueError as error:
            raise ValueError(
                f"image {reference} of {width} x {height} pixels cannot be used: {error}."
            ) from error


def load_images(
    path: str, config: Any, limits: tuple[int, int] | None, revision: str | None = None
) -> Images | None:
    """The reader for the model of `path` with this Hugging Face config; None where it reads text alone."""
    if not reads_images(config):
        return None
    # By its own module: transformers' public name for it asks for torchvision.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(path, revision=revision)
    return Images(processor, limits=limits, token_id=config.image_token_id)


def same_tokens(one: NDArray, other: NDArray) -> bool:
    """Whether two prompts are the same; what an engine made of an image must be what the learner will read."""
    return len(one) == len(other) and bool((np.asarray(one) == np.asarray(other)).all())


def _opened(reference: str) -> Any:
    from PIL import Image

    try:
        return Image.open(reference)
    except OSError as error:
        raise ValueError(
            f"image {reference} cannot be opened ({error}). References are paths that every machine of the run sees."
        ) from error
