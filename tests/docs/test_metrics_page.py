"""docs/metrics.md has every key that a run writes, and no key that none writes."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isentropic.methods.oger.teachers import TeacherResponse, write_teachers
from isentropic.metrics.sinks.jsonl import JsonlSink
from isentropic.records import RouterUse
from isentropic.tasks.grading.outcome import Paid

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
FILES = {"m": "metrics.jsonl", "u": "updates.jsonl", "alarms": "alarms.jsonl"}

# Keys that no run on fakes can write, and why.
ONLY_WITH = {
    "throughput/mfu": "a GPU",
}
PLACEHOLDERS = {
    "class": "(pa_hp|pa_lp|na_hp|na_lp|zero_adv)",
    "coefficient": "(beta[12]|entropy_bonus)",
    "d": "[0-9]",
    "source": "(new|queue|replay|teacher)",
}

# Together these runs reach every key. Each is the demo cut small, on the fakes of the controller's tests.
REPLAYING = ["uec.replay_every=2", "uec.replay_threshold=0", "uec.keep=released"]
RUNS = {
    "ce_gppo": ["alarms.rules.entropy_collapse.value=2", "run.steps=6"],
    "papo": ["method=papo", "papo.h_ref=1.0"],
    "uec_rl": ["method=uec_rl", "terms=none", "uec.explore_size=4", "run.steps=8", *REPLAYING],
    "oger": ["method=oger", "oger.cache=null", "oger.teachers=TEACHERS", "oger.offline_min_adv=0"],
    "erc": ["method=erc"],
    "bapo": ["method=bapo"],
    "clip_cov": ["method=clip_cov"],
    "kl_cov": ["method=kl_cov"],
    "sapo": ["method=sapo"],
    "gspo": ["method=gspo"],
    "dppo_tv": ["method=dppo_tv"],
    "dapo": ["method=dapo"],
    "kl": ["terms=kl"],
    "entropy_bonus": ["method=grpo_entropy_bonus"],
    "adaptive_entropy": ["method=grpo_adaptive_entropy"],
    "nll": ["terms=nll"],
    "tis": ["token_weight=tis"],
    "stale": ["rollout.max_staleness=2"],
    "segments": ["rollout.segment_tokens=3", "run.steps=3"],
    "ledger": ["accounting.ledger.every=1"],
    "steered": ["method=ce_gppo_steered"],
    "flexec": ["method=flexec"],
    "steer": ["method=steer"],
    "clip_v": ["method=clip_v"],
    "entrocraft": ["method=entrocraft", "steering.low=3.0", "steering.high=4.0"],
    "entropic": ["method=entropic"],
    "sign_bound": ["method=sign_bound"],
    "repo_r": ["method=repo_r"],
    "parts of an own reward": ["run.steps=2"],
    "experts": [],
    "nothing to learn": ["rollout.max_response_tokens=1", "run.steps=2"],
}


def load_fakes():
    path = ROOT / "tests" / "controller" / "conftest.py"
    spec = importlib.util.spec_from_file_location("controller_fakes_of_docs", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def documented():
    """Key as the page writes it -> the files that have it."""
    keys = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and set(cells[1].split()) <= set(FILES) and cells[1]:
            for key in re.findall(r"`([^`]+)`", cells[0]):
                keys.setdefault(key, set()).update(cells[1].split())
    return keys


def pattern(key):
    parts = re.split(r"<(\w+)>", key)
    names = [PLACEHOLDERS.get(part, "[^/]+") for part in parts[1::2]]
    literal = [re.escape(part) for part in parts[0::2]]
    return re.compile("".join(a + b for a, b in zip(literal, [*names, ""], strict=True)))


def learner_with_reference(fakes):
    """A fake learner whose reference model is uniform."""

    class Learner(fakes.FakeLearner):
        async def score(self, batches, *, reference):
            results = await super().score(batches, reference=reference)
            return (
                [[added(scores) for scores in rank] for rank in results] if reference else results
            )

    def added(scores):
        uniform = np.full_like(scores.logprob, -np.log(fakes.VOCABULARY))
        return replace(scores, ref_logprob=uniform)

    return Learner()


def grader_of_parts(fakes):
    """A fake grader whose rewards have a part."""

    class Grader(fakes.FakeGrader):
        async def grade(self, rollouts):
            return [Paid(reward, {"right": reward}) for reward in await super().grade(rollouts)]

    return Grader()


def learner_with_experts(fakes):
    """A fake learner of two layers with two experts each."""

    class Learner(fakes.FakeLearner):
        async def update(self, batches):
            (result,) = await super().update(batches)
            use = RouterUse(load=np.array([[3, 1], [2, 2]]), entropy=np.full(2, 1.0), tokens=4)
            return [
                replace(result, updates=tuple(replace(one, routers=use) for one in result.updates))
            ]

    return Learner()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """File's letter -> run's name -> all keys of its lines."""
    fakes, found = load_fakes(), {letter: {} for letter in FILES}
    teachers = tmp_path_factory.mktemp("teachers") / "teachers.jsonl"
    responses = [
        TeacherResponse(prompt_id=f"train-{i}", teacher="ones", text="11", reward=1.0)
        for i in range(20)
    ]
    write_teachers(teachers, responses)
    for name, overrides in RUNS.items():
        config = compose(fakes, [each.replace("TEACHERS", str(teachers)) for each in overrides])
        folder = tmp_path_factory.mktemp("run")
        make = learner_with_experts if name == "experts" else learner_with_reference
        learner = make(fakes)
        sink = JsonlSink(folder)
        run = fakes.FakeRun(config=config, folder=folder, lines=sink, learner=learner)
        run.grader = grader_of_parts(fakes) if name.startswith("parts") else run.grader
        run.run()
        sink.close()
        for letter, file in FILES.items():
            rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
            found[letter][name] = set().union(*rows)
    return found


def compose(fakes, overrides):
    from hydra import compose, initialize_config_dir

    from isentropic.experiments.settings.load import load

    with initialize_config_dir(version_base="1.3", config_dir=str(fakes.CONF)):
        return load(compose("config", overrides=[*fakes.SMALL, *overrides]))


@pytest.mark.parametrize("letter", FILES)
def test_every_key_that_is_written_stands_in_the_page(letter, written):
    patterns = [pattern(key) for key, files in documented().items() if letter in files]
    unknown = {
        key: name
        for name, keys in written[letter].items()
        for key in keys
        if not any(each.fullmatch(key) for each in patterns)
    }
    assert not unknown, f"docs/metrics.md lacks keys of {FILES[letter]} (key: run): {unknown}"


@pytest.mark.parametrize("letter", FILES)
def test_every_key_in_the_page_is_written(letter, written):
    keys = set().union(*written[letter].values())
    page = {key for key, files in documented().items() if letter in files and key not in ONLY_WITH}
    dead = {key for key in page if not any(pattern(key).fullmatch(each) for each in keys)}
    assert not dead, f"no run writes into {FILES[letter]}: {sorted(dead)}"


def test_what_is_said_to_be_out_of_reach_is_not_reached(written):
    keys = set().union(*written["m"].values())
    reached = {key for key in ONLY_WITH if any(pattern(key).fullmatch(each) for each in keys)}
    assert not reached, f"take out of ONLY_WITH: {sorted(reached)}"
    assert set(ONLY_WITH) <= set(documented())


def test_the_fates_of_the_page_are_those_of_the_code():
    fates = pytest.importorskip("isentropic.methods.fates").FATES
    table = PAGE.split("| fate | what", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE) == list(fates)
