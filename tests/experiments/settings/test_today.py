"""The day that chat templates read is that of a run's first start."""

from datetime import date

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from isentropic.experiments.hydra_main import CONF
from isentropic.experiments.run.folder import changed_keys, read_config
from isentropic.experiments.settings.load import load


def composed(folder, *overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=[f"run.dir={folder}", *overrides])


def test_a_new_run_keeps_today_in_its_config(tmp_path):
    cfg = composed(tmp_path)
    assert load(cfg).run.today == date.today()
    assert cfg.run.date == date.today().isoformat()


def test_a_resume_reads_the_day_of_the_first_start(tmp_path):
    first = composed(tmp_path, "run.date=2026-01-31")
    load(first)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(first, resolve=True))
    again = composed(tmp_path)
    assert load(again).run.today == date(2026, 1, 31)
    assert changed_keys(OmegaConf.to_container(first), OmegaConf.to_container(again)) == {}
    other = composed(tmp_path, "run.date=2026-02-01")
    load(other)
    assert list(changed_keys(OmegaConf.to_container(first), OmegaConf.to_container(other))) == [
        "run.date"
    ]


def test_a_run_of_an_older_version_goes_on_as_it_began(tmp_path):
    first = composed(tmp_path)
    with open_dict(first):
        del first.run["date"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(first, resolve=True))
    again = composed(tmp_path)
    assert load(again).run.today is None
    assert changed_keys(read_config(tmp_path), OmegaConf.to_container(again, resolve=True)) == {}


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "31.01.2026"])
def test_what_is_no_day(tmp_path, day):
    with pytest.raises(ValueError, match=r"run\.date must be a day such as 2026-01-31"):
        load(composed(tmp_path, f"run.date={day}"))
