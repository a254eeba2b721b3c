"""What a check may read: Python, its packages, libraries, and of other folders the modules loaded."""

import os
import sys
from collections.abc import Sequence

import isentropic

PACKAGE_ROOT = os.path.dirname(os.path.dirname(isentropic.__file__))
PACKAGES = ("site-packages", "dist-packages")  # names of folders that hold nothing but packages


def code_folders() -> list[str]:
    """Lists the folders of Python, of packages and of libraries: all that a check may read whole.

    Other folders of `sys.path` hold more than code: that of a user's script has his data and keys.
    """
    libraries = ("/usr/lib", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
    roots = [PACKAGE_ROOT, sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *libraries]
    too_much = {"/", "/usr", "/usr/local", os.path.realpath(os.path.expanduser("~"))}
    allowed = [each for each in map(os.path.realpath, roots) if each not in too_much]
    packages = [each for each in _search_path() if _is_of(allowed, each) and each not in too_much]
    return [each for each in dict.fromkeys([*packages, *allowed]) if os.path.exists(each)]


def other_folders() -> list[str]:
    """Lists the folders of `sys.path` that a check may not read, but for modules it has loaded."""
    readable = code_folders()
    return [each for each in _search_path() if os.path.isdir(each) and not _is_of(readable, each)]


def loaded_files() -> list[str]:
    """Lists the files of modules that were loaded from other folders."""
    others, files = other_folders(), []
    for module in list(sys.modules.values()):
        path = os.path.realpath(getattr(module, "__file__", None) or "/")
        if os.path.isfile(path) and _is_under(others, path):
            files.append(path)
    return files


def _search_path() -> list[str]:
    return list(dict.fromkeys(os.path.realpath(folder) for folder in sys.path if folder))


def _is_of(roots: Sequence[str], folder: str) -> bool:
    return os.path.basename(folder) in PACKAGES or _is_under(roots, folder)


def _is_under(roots: Sequence[str], path: str) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)
