"""A checkpoint of a run as a Hugging Face folder, which transformers and vLLM load like any other model."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isentropic.experiments.hydra_main import DONE, is_ours, refuse
from isentropic.folders import use_durable_folders
from isentropic.metrics.report.find import resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run folder, or a run's name")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the last whole one)")
    parser.add_argument("--to", type=Path, help="a new folder (default: RUN/model_STEP)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args(arguments)
    use_durable_folders()
    try:
        folder = export(resolve(given.run), step=given.step, to=given.to, dtype=given.dtype)
    except ValueError as error:
        if not is_ours(error):
            raise
        return refuse(str(error))
    print(
        f"{folder}: transformers and vLLM load it; to train from it: model=path model.path={folder}"
    )
    return DONE


def export(
    run: Path, *, step: int | None = None, to: Path | None = None, dtype: str = "float32"
) -> Path:
    """Writes weights, config and tokenizer, on one device, whatever number of ranks has trained.

    Raises:
        ValueError: no run, no such whole checkpoint, or a folder that has files already.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(
            f"{run} has no config.yaml: it is no run. Give the folder of a run, such as runs/<name>."
        )
    checkpoint, step = _checkpoint(run, step)
    to = to or run / f"model_{step:06d}"
    if to.exists() and any(to.iterdir()):
        raise ValueError(f"{to} has files already. Choose another folder: --to <folder>.")

    import torch
    from omegaconf import OmegaConf

    from isentropic.experiments.run.folder import read_config
    from isentropic.experiments.settings.load import load
    from isentropic.learner.learner import Learner
    from isentropic.models.source import model_folder

    config = load(OmegaConf.create(read_config(run)))
    model = replace(config.model, path=model_folder(config.model, config.task))
    learner = Learner(
        config=replace(config.learner, num_ranks=1, compile=False),
        model=model,
        objective=config.objective,
        terms=config.terms,
        temperature=config.rollout.temperature,
        total_updates=config.run.steps * config.learner.updates_per_rollout,
    )
    try:
        learner.load(checkpoint / "learner")
        learner.export(to, getattr(torch, dtype))
    finally:
        learner.close()
    return to


def _checkpoint(run: Path, step: int | None) -> tuple[Path, int]:
    """A whole checkpoint and its step."""
    from isentropic.controller.storage.checkpoints import checkpoint_path, latest, listed, verify

    folder = run / "checkpoints"
    if step is None:
        found = latest(folder, print)
        if found is None:
            raise ValueError(
                f"{folder} has no whole checkpoint. Go on with the run (resume=auto) until it has one."
            )
        return found[0], found[1].step
    path = checkpoint_path(folder, step)
    if not path.is_dir():
        steps = ", ".join(map(str, listed(folder)))
        raise ValueError(
            f"{run} has no checkpoint of step {step}; there are those of {steps or 'none'}."
        )
    return path, verify(path).step
