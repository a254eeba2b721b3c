"""Config, tokenizer and template come from one revision of a model."""

import shutil
import subprocess
import sys
from importlib.util import find_spec

PROGRAM = """
import sys
from isentropic.config import ModelConfig
from isentropic.models.pretrained import load_chat, load_config

for revision in ("a" * 40, "b" * 40, None):
    model = ModelConfig(name="x", path="owner/model", revision=revision, max_length=64,
                        trust_remote_code=False, warm_start=None, image_pixels=None)
    print(load_config(model).max_position_embeddings, load_chat(model).tokenizer.chat_template)

import isentropic.learner.model
print("transformers.generation.candidate_generator" in sys.modules, "sklearn" in sys.modules)
from transformers.utils import is_sklearn_available
print(is_sklearn_available())
"""


def test_a_revision_reaches_config_tokenizer_and_template(tiny_model_path, tmp_path):
    """In a Hub cache with two revisions of a model; `main` is the first one."""
    repository = tmp_path / "models--owner--model"
    for revision, window in (("a" * 40, "256"), ("b" * 40, "128")):
        folder = shutil.copytree(tiny_model_path, repository / "snapshots" / revision)
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace("256", window))
        (folder / "chat_template.jinja").write_text(f"template of {revision[0]}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": ":".join(sys.path),
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.splitlines() == [
        "256 template of a",
        "128 template of b",
        "256 template of a",
        "True False",  # every model class asks for scikit-learn, which is here and not imported
        "True",  # whoever else asks is told so
    ]
    assert find_spec("sklearn")
