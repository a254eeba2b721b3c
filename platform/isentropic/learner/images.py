"""What a microbatch with images needs besides its tokens: patches, places, 3-D positions."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from isentropic.images import Images, Patches
from isentropic.records import Ints, MicroBatch

# Patches that are kept: samples of one prompt lie in many microbatches and updates.
KEEP_BYTES = 1 << 30


class ImageInputs(NamedTuple):
    """M image tokens among T; each distinct image of the microbatch is in it once."""

    pixels: Tensor  # [P, D] patches of the images
    grid: Tensor  # [I, 3] patches of each image: time, height, width
    position_ids: Tensor  # [3, T]
    place: Tensor  # [M] in T
    feature: Tensor  # [M] row of the vision tower's output that stands there

    def to(self, device: torch.device) -> "ImageInputs":
        return ImageInputs(*(part.to(device, non_blocking=True) for part in self))


class ImageReader:
    """Makes the inputs of microbatches and keeps the images that it read last.

    Args:
        rope_index: the Hugging Face model's own `get_rope_index`.
        merge: patches along each side of a token.
    """

    def __init__(
        self, images: Images, rope_index: Callable[..., tuple[Tensor, Tensor]], merge: int
    ) -> None:
        self._images = images
        self._rope_index = rope_index
        self._merge = merge
        self._kept: OrderedDict[str, Patches] = OrderedDict()

    def inputs(self, batch: MicroBatch) -> ImageInputs:
        """Makes a microbatch's inputs; without an image, a blank one that stands nowhere."""
        media = batch.media or ((),) * (len(batch.cu_seqlens) - 1)
        distinct = list(dict.fromkeys(chain.from_iterable(media)))
        patches = [self._patches(reference) for reference in distinct] or [self._images.blank()]
        grid = np.stack([image.grid for image in patches])
        tokens = grid.prod(axis=1) // self._merge**2
        first = dict(zip(distinct, np.cumsum(tokens) - tokens, strict=False))
        number = {reference: index for index, reference in enumerate(distinct)}
        rows = [
            np.arange(first[name], first[name] + tokens[number[name]])
            for name in chain.from_iterable(media)
        ]
        nowhere = np.zeros(0, dtype=np.int64)
        is_image = batch.token_ids == self._images.token_id
        place = np.flatnonzero(is_image) if distinct else nowhere
        feature = np.concatenate(rows) if rows else nowhere
        if len(place) != len(feature):
            raise ValueError(
                f"a microbatch has {len(place)} image tokens, its images make {len(feature)}: "
                "an image was changed after its prompt was drawn, or model.image_pixels was. "
                f"Restore it. Images: {distinct[:3]}"
            )
        bounds = pairwise(batch.cu_seqlens)
        positions = [
            self._positions(batch.token_ids[start:end], grid[[number[name] for name in names]])
            for (start, end), names in zip(bounds, media, strict=True)
        ]
        return ImageInputs(
            pixels=torch.from_numpy(np.concatenate([image.pixels for image in patches])),
            grid=torch.from_numpy(grid),
            position_ids=torch.from_numpy(np.concatenate(positions, axis=1)),
            place=torch.from_numpy(place),
            feature=torch.from_numpy(feature),
        )

    def _positions(self, token_ids: Ints, grids: Ints) -> Ints:
        """Returns the positions [3, T] of one sequence.

        Up to the last image by the model's own rule, then one by one as in any text.
        """
        image = token_ids == self._images.token_id
        if not len(grids):
            return np.tile(np.arange(len(token_ids)), (3, 1))
        # The first position after the last image token.
        end = len(image) - int(image[::-1].argmax())
        prefix = torch.from_numpy(token_ids[:end])[None]
        kinds = torch.from_numpy(image[:end].astype(np.int32))[None]
        known, _ = self._rope_index(
            prefix, mm_token_type_ids=kinds, image_grid_thw=torch.from_numpy(grids)
        )
        known = known[:, 0].numpy()
        rest = np.arange(len(token_ids) - end) + known.max() + 1
        return np.concatenate([known, np.tile(rest, (3, 1))], axis=1)

    def _patches(self, reference: str) -> Patches:
        if reference in self._kept:
            self._kept.move_to_end(reference)
            return self._kept[reference]
        self._kept[reference] = patches = self._images.patches(reference)
        while len(self._kept) > 1 and _bytes(self._kept.values()) > KEEP_BYTES:
            self._kept.popitem(last=False)
        return patches


def _bytes(kept: Sequence[Patches]) -> int:
    return sum(patches.pixels.nbytes for patches in kept)
