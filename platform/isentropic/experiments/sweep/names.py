"""Hydra's multirun: every job gets a run folder of its own, named after what it overrides."""

import hashlib
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

LABEL_LENGTH = 32  # characters; the hash after it keeps cut labels apart


def name_sweep_job(cfg: DictConfig, settings: DictConfig, arguments: list[str]) -> None:
    """Suffix `run.name` of one multirun job, in place: train-beta1_0.5-seed_1-3f2a91.

    Args:
        settings: `HydraConfig.get()` of the job.
        arguments: the command line, which says what is swept.
    """
    parser = OverridesParser.create()
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    swept = {
        override.key_or_group
        for override in parser.parse_overrides(given)
        if override.is_sweep_override()
    }
    label = sweep_label(OmegaConf.to_container(settings.overrides.task, resolve=False), swept)
    own_folder = "${run.name}" in str(cfg.run._get_node("dir")._value())
    cfg.run.name = f"{cfg.run.name}-{label}"
    # A folder named on the command line is the parent of all.
    if not own_folder:
        cfg.run.dir = f"{cfg.run.dir}/{label}"


def sweep_label(overrides: list[str], swept: set[str], label: str | None = None) -> str:
    """Return a short name for a job: its swept keys and values, fit for a folder, and a hash.

    label: of its setting, in the place of all keys but the seed.
    """
    shown = [override for override in overrides if override.lstrip("+").split("=")[0] in swept]
    shown = shown or overrides
    words = [] if label is None else [_folder_letters(label)]
    for override in shown:
        key, _, value = override.lstrip("+").partition("=")
        if label is None or key == "seed":
            words.append(f"{key.rpartition('.')[2]}_{value}")
    readable = _folder_letters("-".join(words))[:LABEL_LENGTH].strip("_-.")
    digest = hashlib.blake2b("\n".join(sorted(shown)).encode(), digest_size=3).hexdigest()
    return f"{readable}-{digest}" if readable else digest


def _folder_letters(text: str) -> str:
    """Replace what a folder's name may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_-.")
