"""Adds torchvision for vLLM's image models on a CPU: the index has only its CUDA build.

That build's Python part works with torch's CPU build once two of its operators are declared; its
own library does not load, and nothing that runs here calls it. `docker/install.sh vlm` (`make vlm`)
puts it beside the environment: in it, it would break the import of every transformers model.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A declaration lasts as long as its library.
_library: list[torch.library.Library] = []


def folder() -> Path:
    """Returns `ISENTROPIC_TORCHVISION`, or `torchvision` in the environment's folder."""
    return Path(
        os.environ.get("ISENTROPIC_TORCHVISION") or Path(sys.prefix) / "torchvision"
    ).absolute()


def missing() -> str:
    """Says why an engine cannot read images here, and what to do; "" if it can."""
    if find_spec("torchvision") or (folder() / "torchvision").is_dir():
        return ""
    return (
        f"vLLM reads images through torchvision, which is neither installed nor in {folder()}. On "
        "a CPU `make vlm` fetches it there; on a GPU `make venv DEVICE=cuda` installs it."
    )


def add() -> None:
    """Makes `import torchvision` work in this process, if called before vLLM is imported.

    Raises:
        ValueError: there is none.
    """
    if why := missing():
        raise ValueError(why)
    # Installed, as on GPUs, or added by an earlier call.
    if find_spec("torchvision"):
        return
    for schema in DECLARED:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(schema)
        _library.append(library)
    sys.path.append(str(folder()))
    from transformers.utils import import_utils

    import_utils.is_torchvision_available.cache_clear()
    import_utils.is_torchvision_v2_available.cache_clear()
