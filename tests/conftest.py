"""What is dear to start and shared by a whole test session: a model folder, an engine, a Ray."""

import copy
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell has what it starts in the background ignore Ctrl-C: tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hydra._internal import config_loader_impl as hydra_impl
from hypothesis import settings

from isentropic.config import RolloutConfig
from isentropic.experiments.settings.conf import CONF
from isentropic.records import Request, RolloutKey
from isentropic.seeds import rollout_seed

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

MAX_LENGTH = 96


def pytest_collection_modifyitems(items):
    """`make test` finds the files of an engine's tests by two words."""
    files = {item.path for item in items if item.get_closest_marker("engine")}
    hidden = [str(path) for path in files if "mark.engine" not in path.read_text(encoding="utf-8")]
    assert not hidden, f"tests are marked `engine` without these words (mark.engine): {hidden}"


LOADER = hydra_impl.ConfigLoaderImpl
HYDRAS_LIST, HYDRAS_COMPOSE = (
    hydra_impl.create_defaults_list,
    LOADER._compose_config_from_defaults_list,
)


@pytest.fixture(scope="session", autouse=True)
def remembered_compositions():
    """Has Hydra read each choice of presets under conf/ once; a test's values are set on a copy.

    Composing takes half a second, and hundreds of tests do it for a few values. What Hydra does with
    a value (`section.key=...`) does not depend on the presets: it sets values last, one by one.
    """
    lists, composed = {}, {}

    def is_fixed(repo):
        """Whether nothing but conf/ is read: tests write presets of their own."""
        return all(
            source.scheme() != "file" or source.path in (str(CONF), f"file://{CONF}")
            for source in repo.get_sources()
        )

    def remembered_list(repo, config_name, overrides_list, prepend_hydra, skip_missing):
        if not is_fixed(repo) or any(one.is_hydra_override() for one in overrides_list):
            return HYDRAS_LIST(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        choices = [one for one in overrides_list if "." not in one.key_or_group]
        key = (config_name, tuple(one.input_line for one in choices), prepend_hydra, skip_missing)
        if key not in lists:
            lists[key] = HYDRAS_LIST(repo, config_name, choices, prepend_hydra, skip_missing)
        groups = [one for one in choices if one not in lists[key].config_overrides]
        values = [one for one in overrides_list if one not in groups]
        return replace(lists[key], config_overrides=values)

    def remembered(self, defaults, repo):
        if not is_fixed(repo):
            return HYDRAS_COMPOSE(self, defaults=defaults, repo=repo)
        key = repr(defaults)
        if key not in composed:
            composed[key] = HYDRAS_COMPOSE(self, defaults=defaults, repo=repo)
        return copy.deepcopy(composed[key])

    hydra_impl.create_defaults_list = remembered_list
    LOADER._compose_config_from_defaults_list = remembered
    yield
    hydra_impl.create_defaults_list = HYDRAS_LIST
    LOADER._compose_config_from_defaults_list = HYDRAS_COMPOSE


@pytest.fixture
def hydras_own():
    """What a function gives if Hydra composes everything from its files, as in a run."""

    def call(function):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hydra_impl, "create_defaults_list", HYDRAS_LIST)
            patch.setattr(LOADER, "_compose_config_from_defaults_list", HYDRAS_COMPOSE)
            return function()

    return call


def write_tiny_model(folder, *, seed: int = 0) -> str:
    """A random Qwen3 of 0.1 M parameters with a character tokenizer, as an ordinary Hugging Face folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokens = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=112, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=128, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(
                    3
                )  # away from the uniform distribution, where every temperature looks alike
    model.generation_config.eos_token_id = fast.eos_token_id
    model.save_pretrained(folder)
    return str(folder)


def rollout_config(**changes) -> RolloutConfig:
    values = {
        "engine": "vllm", "num_actors": 1, "tensor_parallel": 1, "prompts_per_step": 4, "group_size": 4,
        "temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_prompt_tokens": 32,
        "max_response_tokens": 64, "max_staleness": 0,
        "max_num_seqs": 64, "kv_cache_gib": 0.125, "dtype": "float32", "probe_tolerance": 1e-4, "timeout_s": 600.0,
    }  # fmt: skip
    return RolloutConfig(**{**values, **changes})


def make_requests(
    prompts: int, samples: int, *, max_tokens: int = 32, temperature: float = 1.0
) -> list[Request]:
    """Seeded requests, `samples` for each of `prompts` prompts of 3 to 30 tokens."""
    rng = np.random.default_rng(7)
    rows = [rng.integers(4, 100, size=rng.integers(3, 31)) for _ in range(prompts)]
    return [
        Request(
            key=RolloutKey("train", draw, 0, sample),
            turn=0,
            token_ids=row,
            seed=rollout_seed(0, "train", draw, sample, 0, 0),
            temperature=temperature,
            max_tokens=max_tokens,
        )
        for draw, row in enumerate(rows)
        for sample in range(samples)
    ]


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def write_model(tmp_path):
    """write_model(seed): the folder of another tiny model, its weights by the seed."""
    return lambda seed: write_tiny_model(tmp_path / f"model-{seed}", seed=seed)


@pytest.fixture(scope="session")
def rollouts() -> SimpleNamespace:
    """Builders of engine inputs: `config(**changes)`, `requests(prompts, samples)` and the window."""
    return SimpleNamespace(config=rollout_config, requests=make_requests, max_length=MAX_LENGTH)


@pytest.fixture(scope="session")
def engine(tiny_model_path):
    """The one vLLM engine of this process. Tests that load weights load the folder's own back."""
    from isentropic.rollout.vllm_engine import VllmEngine

    engine = VllmEngine(tiny_model_path, rollout_config(), max_length=MAX_LENGTH, device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def fake_runs(tmp_path_factory):
    """A folder with the runs `low` and `high`, which differ in beta1, and a sweep `grid` of one run.

    They are on the fakes of the controller's tests, whole, with books of steps 3 and 6.
    """
    import importlib.util
    from pathlib import Path

    from omegaconf import OmegaConf

    from isentropic.experiments.settings.compose import compose_run
    from isentropic.experiments.settings.load import load
    from isentropic.metrics.sinks.jsonl import JsonlSink

    path = Path(__file__).resolve().parent / "controller" / "conftest.py"
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


@pytest.fixture(scope="session")
def benchmark_script():
    """benchmark_script(name): a script of benchmarks/ as a module, without what it puts on `sys.path`."""
    import importlib.util
    import sys
    from functools import cache
    from pathlib import Path

    folder = Path(__file__).resolve().parents[1] / "benchmarks"

    @cache
    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclasses ask for it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(folder), *sys.path])
            spec.loader.exec_module(module)
        return module

    return load
