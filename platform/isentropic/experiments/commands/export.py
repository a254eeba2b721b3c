"""Writes a checkpoint as a Hugging Face folder, which transformers and vLLM load.

python jobs/export.py run=<folder or name>
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentropic.experiments.program import program
from isentropic.experiments.settings.options import Option, Options, choice, path, step, text
from isentropic.metrics.report.find import find_run

if TYPE_CHECKING:
    from isentropic.controller.storage.checkpoints import Manifest

OPTIONS = Options(
    "export",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option("step", "<number>", "of the checkpoint (default: the last whole one)", step),
        Option("to", "<folder>", "a new folder (default: <run>/model_<step>)", path, writes=True),
        Option(
            "dtype",
            "float32|bfloat16",
            "of the weights (default: float32)",
            choice("float32", "bfloat16"),
        ),
        Option(
            "push",
            "<owner>/<name>",
            "uploads the folder as a model of the Hub; a new one is private",
            text,
        ),
    ),
    words="run",
    old={"--step": "step=", "--to": "to=", "--dtype": "dtype="},
)


def run_export(options: dict[str, Any], overrides: list[str]) -> None:
    """Export, and say what the folder is good for."""
    run = find_run(options["run"])
    if "push" in options:
        check_push(options["push"])
    # Weights and moments are read, 12 bytes per parameter: a host has the memory, a GPU may not.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    folder = export(
        run,
        step=options.get("step"),
        to=options.get("to"),
        dtype=options.get("dtype", "float32"),
    )
    print(
        f"{folder}: transformers and vLLM load it; to train from it: model=path model.path={folder}"
    )
    if "push" in options:
        print(f"uploaded: {push_to_hub(folder, options['push'])}")
    from isentropic.experiments.card import serve_command
    from isentropic.experiments.run.recorded import RecordedRun

    print(f"to serve it: {serve_command(folder, RecordedRun(run).plain.model)}")


def export(
    run: Path, *, step: int | None = None, to: Path | None = None, dtype: str = "float32"
) -> Path:
    """Write weights, config, tokenizer and a model card (README.md).

    It works on one device, whatever number of ranks has trained. Of the run's own code nothing runs;
    of the model's, what the run's `model.trust_remote_code` allows.

    Raises:
        ValueError: no run, no such whole checkpoint, or a folder that has files already.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(
            f"{run} has no config.yaml: it is no run. Give the folder of a run, such as "
            "runs/<name>."
        )
    checkpoint, manifest = _checkpoint(run, step)
    step = manifest.step
    to = to or run / f"model_{step:06d}"
    if to.exists() and any(to.iterdir()):
        raise ValueError(f"{to} has files already. Choose another folder: to=<folder>.")

    import torch

    from isentropic.experiments.card import model_card
    from isentropic.experiments.run.recorded import RecordedRun
    from isentropic.learner.learner import Learner
    from isentropic.models.source import EMBEDDED, model_folder
    from isentropic.objectives.reinforce import ReinforceConfig

    recorded = RecordedRun(run)
    config = recorded.plain
    # The warm start of the embedded model depends on the task; no other task is made here.
    task = _embedded_task(recorded.values["task"]) if config.model.path == EMBEDDED else None
    model = replace(config.model, path=model_folder(config.model, task))
    learner = Learner(
        config=replace(config.learner.on_one_rank(), compile=False),
        model=model,
        objective=ReinforceConfig(name="reinforce", ratio="token"),  # any: nothing is trained
        temperature=config.rollout.temperature,
        total_updates=config.run.steps * config.learner.updates_per_rollout,
    )
    try:
        learner.load(checkpoint / "learner")
        learner.export(to, getattr(torch, dtype))
    finally:
        learner.close()
    card = model_card(
        config,
        recorded.values,
        recorded.lines,
        step=step,
        version=manifest.policy_version,
        dtype=dtype,
    )
    (to / "README.md").write_text(card, encoding="utf-8")
    return to


def _embedded_task(values: dict[str, Any]) -> Any:
    """Return the task that the embedded model was warm-started on.

    Raises:
        ValueError: it is of another kind, which the embedded model does not know.
    """
    from isentropic.experiments.settings.load import typed
    from isentropic.tasks import TASKS
    from isentropic.tasks.arithmetic import ArithmeticConfig

    entry = TASKS.get(values.get("name"))
    if entry is None or not issubclass(entry.config, ArithmeticConfig):
        raise ValueError(
            f"config.yaml has task.name={values.get('name')!r} with model.path=embedded, a model "
            "that knows arithmetic tasks alone: the file was changed. Restore it."
        )
    return typed("task", entry.config, values)


def check_push(name: str) -> None:
    """Raise ValueError if nothing could be uploaded: no name of a model, or no token of the Hub."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push={name} is no name of a model of the Hub: {error}") from error
    if get_token() is None:
        raise ValueError(
            f"push={name} needs a token of the Hub, and this machine has none. Log in (hf auth "
            "login), or set HF_TOKEN; leave push= out to export without uploading."
        )


def push_to_hub(folder: Path, name: str) -> str:
    """Upload the exported folder; return its address.

    Raises:
        ConnectionError: the Hub was not reached, or refused it. The folder is whole.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = str(hub.create_repo(name, private=True, exist_ok=True))
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Add {folder.name}")
    except Exception as error:  # of several HTTP libraries, which share no class
        reason = " ".join(str(error).split())
        raise ConnectionError(
            f"{folder} was written and not uploaded ({type(error).__name__}: {reason:.200}). Try "
            f"again: hf upload {name} {folder}"
        ) from error
    return address


def _checkpoint(run: Path, step: int | None) -> "tuple[Path, Manifest]":
    """Return a whole checkpoint and what it says about itself."""
    from isentropic.controller.storage.checkpoints import checkpoint_path, latest, listed, verify

    folder = run / "checkpoints"
    if step is None:
        found = latest(folder, print)
        if found is None:
            raise ValueError(
                f"{folder} has no whole checkpoint. Go on with the run (resume=auto) until it has "
                "one."
            )
        return found
    path = checkpoint_path(folder, step)
    if not path.is_dir():
        steps = ", ".join(map(str, listed(folder)))
        raise ValueError(
            f"{run} has no checkpoint of step {step}; there are those of {steps or 'none'}."
        )
    return path, verify(path)


main = program(run_export, OPTIONS)
