"""An unknown key names the key that is meant, or the choice that has it; never a copy of it elsewhere."""

import pytest
from omegaconf import OmegaConf

from isentropic.config import flat
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import compose_raw, groups
from isentropic.experiments.settings.errors.synonyms import CHOSEN_BY, SYNONYMS
from isentropic.experiments.settings.load import load


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "learner.beta1=0.9",
            r"learner\.beta1 is now learner\.adam_beta1; the beta of CE-GPPO is objective\.beta1$",
        ),
        ("+learner.eps=1", r"learner\.eps is now learner\.adam_eps$"),
        ("learner.learning_rate=1", r"Did you mean 'learner\.lr'\?"),
        ("learning_rate=1", r"Did you mean 'learner\.lr'\?"),
        ("rollout.batch_size=1", r"Did you mean 'rollout\.prompts_per_step'"),
        ("num_generations=8", r"Did you mean 'rollout\.group_size'\?"),
        ("rollout.n=8", r"Did you mean 'rollout\.group_size'\?"),
        ("rollout.max_new_tokens=8", r"Did you mean 'rollout\.max_response_tokens'\?"),
        ("actor_rollout_ref.rollout.n=8", r"Did you mean 'rollout\.group_size'\?"),
        ("data.train_files=a", r"Did you mean 'task\.path' \(with task=math\)\?"),
        ("trainer.total_epochs=1", r"Did you mean 'run\.steps'\?"),
        ("generate_max_len=8", r"Did you mean 'rollout\.max_response_tokens'\?"),
        ("kl_coef=1", r"Did you mean 'terms\.kl\.coef' \(with terms=kl\)\?"),
        ("method=[[dapo]]", r"method must be chosen by name, got \[\['dapo'\]\]"),
        ("model=3", "model must be chosen by name, got 3"),
        ("experiment=null", "experiment must be chosen by name, got None"),
        ("run.label=a\0b", "has a NUL in it"),
    ],
)
def test_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        compose([argument])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            "method=dapo objective.beta1=0.5",
            r"objective=dapo has no beta1\. Choose objective=ce_gppo \(or ce_gppo_dual, flexec\)\.$",
            id="another objective's",
        ),
        pytest.param(
            "objective.beta1=0.5 method=dapo",
            r"objective=dapo has no beta1\. Choose objective=ce_gppo",
            id="in any order",
        ),
        pytest.param("beta1=0.5", r"key 'beta1'\. Did you mean 'objective\.beta1'\?$", id="bare"),
        pytest.param(
            "method=dapo beta1=0.5",
            r"'objective\.beta1' \(with objective=ce_gppo\) or 'steering\.actuators\.beta1' \(with",
            id="bare, and another objective's",
        ),
        pytest.param("name=foo", r"Did you mean 'run\.name'\?$", id="every slot has a name"),
        pytest.param(
            "terms.entropy_bonus.coef=0.01",
            r"terms=none has no entropy_bonus\.coef\. Choose terms=entropy_bonus ",
            id="a term that is off",
        ),
        pytest.param("terms.kl.coef=0.01", r"Choose terms=kl ", id="the chosen one comes first"),
        pytest.param(
            "steering.target=0.3",
            r"steering=none has no target\. Choose steering=entropic \(or sign_bound, steered\)",
            id="several have it",
        ),
        pytest.param("oger.coef=1", r"oger\.\* comes with method=oger\.", id="oger"),
        pytest.param("uec.explore_size=4", r"uec\.\* comes with method=uec_rl\.", id="uec"),
        pytest.param("papo.alfa=0.1", r"papo\.\* comes with method=papo\.", id="papo"),
        pytest.param(
            "learner.lora.rank=8",
            r"learner\.lora is null.*'learner\.lora=\{rank: 32, .*\}'; or choose learner=lora\.$",
            id="inside a section that is null",
        ),
        pytest.param(
            "cluster.assume.gpus=2", r"Give it whole: 'cluster\.assume=\{nodes: 1, ", id="assume"
        ),
        pytest.param(
            "task.path=a.jsonl", r"task=arithmetic has no path\. Choose task=math ", id="task"
        ),
        pytest.param(
            "objective.base.beta1=1",
            r"ce_gppo is over no other objective\. Choose objective=clip_b .* and objective@objective",
            id="of a base that is not there",
        ),
        pytest.param(
            "objective=erc objective.base.beta1=1",
            r"objective\.base has no beta1\. Choose objective@objective\.base=ce_gppo ",
            id="of another base",
        ),
        pytest.param(
            "accounting.counterfactuals.gppo.beta3=1",
            r"Did you mean 'accounting\.counterfactuals\.gppo\.beta2'\?",
            id="a copy that is named",
        ),
        pytest.param("method=ppo", r"PPO's clipped surrogate is objective=clip", id="PPO"),
        pytest.param("objective=ppo", r"method=grpo trains with it: there is no critic", id="ppo"),
    ],
)
def test_what_is_meant(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(arguments.split())


def test_a_key_that_is_forced_in_names_the_choice_that_has_it():
    with pytest.raises(ValueError, match=r"Choose objective=ce_gppo \(.*\), which has beta1"):
        load(compose(["method=dapo", "+objective.beta1=1"]))


def keys_of(*overrides):
    return {*groups(), *flat(OmegaConf.to_container(compose_raw(overrides), resolve=False))}


def test_every_key_that_stands_for_anothers_exists():
    """Those that the defaults lack say which choice has them."""
    default = keys_of()
    assert {key for key in SYNONYMS.values() if key not in default} == set(CHOSEN_BY)
    for key, choice in CHOSEN_BY.items():
        assert key in keys_of(choice)
