"""docs/running.md names what the code has: jobs, keys that a resume may change, parts of a sweep's file."""

import re
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from isentropic.config import flat, is_under
from isentropic.experiments.commands.submit import SCRIPTS
from isentropic.experiments.console import COMMANDS
from isentropic.experiments.run.folder import changed_keys
from isentropic.experiments.settings.conf import compose_raw
from isentropic.experiments.sweep.plan import PARTS, plan_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")


def rows(head):
    """First cell -> second cell of the table under a head."""
    table = PAGE.partition(f"| {head} | what |\n|---|---|\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\S+)` \| (.*) \|$", table, re.MULTILINE))


def test_every_job_has_a_row_and_submit_names_those_that_it_takes():
    jobs = rows("job")
    assert set(jobs) == {path.name for path in (ROOT / "jobs").glob("*.py")}
    assert set(re.findall(r"`(\w+)`", jobs["submit.py"])) == set(SCRIPTS)
    assert set(re.split(r", | or | ", COMMANDS["submit"])) >= set(SCRIPTS)
    assert not {name for name in COMMANDS if name in COMMANDS["submit"]} - set(SCRIPTS)


def test_what_a_resume_may_change_is_named():
    paragraph = PAGE.partition("A folder that has a run is refused")[2].partition("\n\n")[0]
    named = paragraph.partition("compute nothing:")[2].partition("More `run.steps`")[0]
    names = re.findall(r"`([\w.]+)`", named)
    before = flat(OmegaConf.to_container(compose_raw(), resolve=True))
    free = {key for key in before if not changed_keys({key: 0}, {key: 1})}
    assert free == {key for key in before if is_under(key, names)}
    assert all(any(is_under(key, [name]) for key in free) for name in names)


def test_a_sweep_s_file_has_the_parts_of_the_table_and_the_example_is_one():
    assert set(rows("part")) == set(PARTS)
    plan = plan_of(yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]), [])
    assert plan.count == 6
