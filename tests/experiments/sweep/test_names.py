"""Every job of a multirun has a run folder of its own, with a name that says what it overrides."""

from omegaconf import OmegaConf

from isentropic.config import check_name
from isentropic.experiments.sweep.names import name_sweep_job, sweep_label


def settings(*overrides):
    return OmegaConf.create({"overrides": {"task": list(overrides)}})


def run_config(folder="runs/${run.name}"):
    return OmegaConf.create({"run": {"name": "train", "dir": folder}})


def test_label_names_the_swept_keys_alone():
    label = sweep_label(
        ["run.steps=9", "objective.beta1=0.5", "seed=1"], {"objective.beta1", "seed"}
    )

    assert label.rpartition("-")[0] == "beta1_0.5-seed_1"


def test_labels_that_are_cut_still_differ():
    long = [f"model.path=/data/models/a_very_long_folder_name/{letter}" for letter in "ab"]

    labels = [sweep_label([override], {"model.path"}) for override in long]
    assert labels[0] != labels[1]
    for label in labels:
        check_name("run.name", f"train-{label}")


def test_name_and_folder_of_a_job():
    cfg = run_config()
    name_sweep_job(cfg, settings("objective.beta1=0.5"), ["-m", "objective.beta1=0.5,1"])

    assert cfg.run.name.startswith("train-beta1_0.5-")
    assert cfg.run.dir == f"runs/{cfg.run.name}"


def test_a_folder_that_was_given_holds_all_jobs():
    folders = set()
    for beta in ("0.5", "1"):
        cfg = run_config("/data/here")
        name_sweep_job(cfg, settings(f"objective.beta1={beta}"), ["-m", "objective.beta1=0.5,1"])
        folders.add(cfg.run.dir)

    assert len(folders) == 2
    assert all(folder.startswith("/data/here/beta1_") for folder in folders)
