"""Runs on the fakes of the controller's tests, whole with their books, under a folder of runs."""

import pytest


@pytest.fixture(scope="session")
def fake_runs(tmp_path_factory):
    """A folder with `low` and `high`, which differ in beta1, and a sweep `grid` of one run."""
    import importlib.util
    from pathlib import Path

    from omegaconf import OmegaConf

    from isentropic.experiments.settings.compose import compose_run
    from isentropic.experiments.settings.load import load
    from isentropic.metrics.sinks.jsonl import JsonlSink

    path = Path(__file__).resolve().parents[2] / "controller" / "conftest.py"
    spec = importlib.util.spec_from_file_location("controller_fakes", path)
    fakes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fakes)
    root = tmp_path_factory.mktemp("runs")
    for place, beta1 in (("low", 0.0), ("high", 1.0), ("grid/one", 0.5)):
        folder = root / place
        folder.mkdir(parents=True)
        own = [f"run.name={folder.name}", f"run.dir={folder}", f"objective.beta1={beta1}"]
        cfg = compose_run([*fakes.SMALL, "accounting.ledger.every=3", *own])
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
        sink = JsonlSink(folder)
        fakes.FakeRun(config=load(cfg), folder=folder, lines=sink).run()
        sink.close()
    return root


@pytest.fixture
def runs(fake_runs, monkeypatch):
    """The folder of runs, as the one that names are looked up in."""
    monkeypatch.setenv("ISENTROPIC_RUNS", str(fake_runs))
    return fake_runs
