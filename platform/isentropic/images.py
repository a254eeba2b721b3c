"""Images of prompts, from references to pixels, for the controller, the engines and the learner.

Queues, ledgers and checkpoints hold only references (paths). All who need pixels read them here and
so see the same ones: an image is brought to its final size before it reaches any processor.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isentropic.records import Floats, Ints

KINDS = ("qwen2_vl", "qwen2_5_vl")  # model types whose images are understood here
# Added to the logits of image and video tokens, in engine and learner alike: a policy that wrote
# one would be read as having seen an image that is not there. Beside any other token's probability
# a factor of e^-100 is nothing in float32.
BANNED = -100.0
READ_IMAGES = 16  # that are kept: the requests of a group follow each other


def reads_images(config: Any) -> bool:
    """Returns whether a model with this Hugging Face config is given its prompts' images."""
    return getattr(config, "model_type", None) in KINDS


def banned_tokens(config: Any) -> tuple[int, ...]:
    """Returns the token ids that the policy never writes; none for a text-only model."""
    return (config.image_token_id, config.video_token_id) if reads_images(config) else ()


class Patches(NamedTuple):
    """One image, as the vision tower takes it."""

    pixels: Floats  # [P, D] normalised
    grid: Ints  # [3] time, height, width, in patches


class Images:
    """Reads images for one model.

    Args:
        processor: transformers' `Qwen2VLImageProcessorPil`, which needs no torchvision.
        limits: fewest and most pixels of an image, which is scaled to lie between; None: those of
            `processor`.
        token_id: stands in a prompt once for each token of an image.
    """

    def __init__(self, processor: Any, *, limits: tuple[int, int] | None, token_id: int) -> None:
        size = processor.size
        self.limits = tuple(limits or (size["shortest_edge"], size["longest_edge"]))
        self.token_id = token_id
        self._processor = processor
        self._factor = processor.patch_size * processor.merge_size
        self.num_tokens = lru_cache(maxsize=65536)(self._num_tokens)
        self.read = lru_cache(maxsize=READ_IMAGES)(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes to other processes without what it has cached."""
        return partial(Images, limits=self.limits, token_id=self.token_id), (self._processor,)

    def expand(self, token_ids: Ints, media: tuple[str, ...], prompt_id: str) -> Ints:
        """Repeats the one token in the place of each image once per token of the image."""
        is_image = token_ids == self.token_id
        places = int(is_image.sum())
        if places != len(media):
            raise ValueError(
                f"prompt {prompt_id} with {len(media)} image(s) has {places} place(s) for them "
                "after the chat template. Give each image one place, '<image>' in its prompt's "
                "text, or none to have them all in front of it."
            )
        counts = np.ones(len(token_ids), dtype=np.int64)
        counts[is_image] = [self.num_tokens(reference) for reference in media]
        return np.repeat(token_ids, counts)

    def collapse(self, token_ids: Ints) -> Ints:
        """Replaces each run of image tokens by one token, which is what vLLM expects."""
        image = token_ids == self.token_id
        again = np.zeros_like(image)
        again[1:] = image[1:] & image[:-1]
        return token_ids[~again]

    def patches(self, reference: str) -> Patches:
        """Reads the image of `reference` for the vision tower."""
        return self._cut(self.read(reference))

    def blank(self) -> Patches:
        """Makes the smallest image, one token, for a microbatch without any.

        With it the vision tower runs on every rank, as FSDP's collectives demand.
        """
        from PIL import Image

        return self._cut(Image.new("RGB", (self._factor, self._factor)))

    def _cut(self, image: Any) -> Patches:
        # do_resize=False: the processor must not scale again what has its final size.
        out = self._processor(images=[image], do_resize=False, return_tensors="np")
        return Patches(
            pixels=np.asarray(out["pixel_values"], dtype=np.float32),
            grid=np.asarray(out["image_grid_thw"][0]),
        )

    def _num_tokens(self, reference: str) -> int:
        with _opened(reference) as image:
            height, width = self._size(image.height, image.width, reference)
        return height * width // self._factor**2

    def _read(self, reference: str) -> Any:
        """Reads the image in RGB at its final size; what is transparent becomes white."""
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
    """Makes the reader for the model of `path` with this Hugging Face config; None if text-only."""
    if not reads_images(config):
        return None
    # From the module itself: transformers' public name for the class asks for torchvision.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(path, revision=revision)
    return Images(processor, limits=limits, token_id=config.image_token_id)


def same_tokens(one: NDArray, other: NDArray) -> bool:
    """Returns whether two prompts are the same.

    What an engine made of an image must be what the learner will read.
    """
    return len(one) == len(other) and bool((np.asarray(one) == np.asarray(other)).all())


def _opened(reference: str) -> Any:
    from PIL import Image

    try:
        return Image.open(reference)
    except OSError as error:
        raise ValueError(
            f"image {reference} cannot be opened ({error}). "
            "Give a path that every machine of the run sees."
        ) from error
