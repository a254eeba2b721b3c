"""Packs what a job takes along: the tree as one zip, without outputs, data, caches and secrets."""

import re
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from isentropic.checks import is_secret_name, secret_in, secret_values

OUTPUTS = ("runs", "data", "multirun", "outputs", "wandb", "build", "dist")  # at the root only
RESULTS = ("docs", "results")  # numbers and figures of past runs, which no job reads
KEY_FILES = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", "auth_token", "*.pem", "*.key", "*.p12", "*.pfx",
    "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "kubeconfig*", "credentials",
    "credentials.*", "*.tfvars", ".pypirc", ".npmrc", ".git-credentials", "service_account*.json",
)  # fmt: skip
KEY_FOLDERS = (
    ".git",
    ".ssh",
    ".aws",
    ".kube",
    ".gnupg",
    ".docker",
    ".venv",
    "venv",
    "__pycache__",
    ".cache",
)
SECRET_TEXT = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}"),
    "a W&B key": re.compile(
        rb"WANDB_API_KEY[\"']?\s*[=:]\s*[\"']?(?:wandb_v1_\w{20,}|local-)?[0-9a-f]{40}"
    ),
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z]{34}\b"),
    "a GitHub token": re.compile(
        rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b"
    ),
    "an AWS key": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "an API key": re.compile(rb"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}"),
}
# A Python file as the keys of a config name it: {file: a.py, ...} or task.reward.file=a.py.
OWN_FILE = re.compile(r"""\bfile\s*[:=]\s*["']?(?P<path>[^"',{}]+?\.py)\b""")
OWN = "own"  # the folder of those that are not in the tree
MAX_MIB = 100  # Ray refuses 500; a tree of code has less than one
NO_SECRETS = (
    "Secrets stay where they are: a job's files and environment can be read by all who see the "
    "cluster. Give the cluster its W&B key itself, as a netrc file on its nodes (NETRC=<path>; a "
    "Kubernetes Secret mounted as a file)."
)


@dataclass(frozen=True)
class Package:
    """Files to upload, relative to the root, and those left out, each with the reason."""

    root: Path
    files: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    # The user's own files from outside of it, or ignored in it: place in the upload -> file.
    own: Mapping[str, Path] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.places().values())

    def places(self) -> dict[str, Path]:
        """Where each file of the upload comes from."""
        return {name: self.root / name for name in self.files} | dict(self.own)


def package(root: Path, own: Mapping[str, Path] | None = None) -> Package:
    """Lists the tree; what .gitignore names is not even listed as left out.

    Args:
        own: files that a job needs besides, as `Package.own`.

    Raises:
        ValueError: a file's text holds a secret, the tree is too large, or git is missing.
    """
    files = []
    left_out = []
    for name in _not_ignored(root):
        reason = _why_not(root, name)
        if reason:
            left_out.append((name, reason))
        else:
            files.append(name)
    upload = Package(root, tuple(files), tuple(left_out), own or {})
    if not files:
        raise ValueError(f"{root} has no file to upload. Run this from a checkout of the project.")
    _check_size(upload)
    _check_text(upload)
    return upload


def write_zip(upload: Package, path: Path) -> None:
    """Writes the archive; the same tree gives the same bytes, so that Ray uploads it once."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in upload.places().items():
            # Dated 1980: with a time stamp the same tree would have other bytes.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (file.stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())


def with_own_files(arguments: list[str], root: Path) -> tuple[list[str], dict[str, Path]]:
    """Returns the arguments as the job reads them, and the user's own files that they name.

    A file of the tree is named by its place in it; another goes along as own/<number>/<name>.

    Raises:
        ValueError: there is no such file.
    """
    own: dict[str, Path] = {}

    def place(found: re.Match[str]) -> str:
        given = found["path"]
        path = Path(given).expanduser().resolve()
        if not path.is_file():
            raise ValueError(f"{given} is no file: it could not go along with the job.")
        if path.is_relative_to(root) and (name := str(path.relative_to(root))) in tree:
            return found[0].replace(given, name)
        own[name := f"{OWN}/{len(own)}/{path.name}"] = path
        return found[0].replace(given, name)

    tree: set[str] = set()
    if any(map(OWN_FILE.search, arguments)):
        tree = {name for name in _not_ignored(root) if _why_not(root, name) is None}
    return [OWN_FILE.sub(place, argument) for argument in arguments], own


def check_arguments(arguments: list[str]) -> None:
    """Raises ValueError if an argument has a secret: everybody can read the command of a job."""
    secrets = secret_values()
    for argument in arguments:
        key, _, value = argument.partition("=")
        variable = secret_in(argument, secrets)
        kind = _kind_of_secret(argument.encode())
        if variable or kind or (value and is_secret_name(key.rpartition(".")[2])):
            shown = (
                f"holds the value of {variable}" if variable else f"looks like {kind or 'a secret'}"
            )
            raise ValueError(
                "argument "
                f"{key.lstrip('+') if value and not secret_in(key, secrets) else '(not shown)'} "
                f"{shown}. {NO_SECRETS}"
            )


def _kind_of_secret(text: bytes) -> str | None:
    """Returns what kind of secret is in the text, by the format of its issuer."""
    return next((kind for kind, pattern in SECRET_TEXT.items() if pattern.search(text)), None)


def _not_ignored(root: Path) -> list[str]:
    """Returns all files that .gitignore does not name, sorted.

    git reads the tree through an empty repository made here, so that an exported tree works too.
    """
    with tempfile.TemporaryDirectory() as empty:
        try:
            subprocess.run(
                ["git", "init", "--quiet", "--bare", empty], check=True, capture_output=True
            )
            command = [
                "git",
                f"--git-dir={empty}",
                f"--work-tree={root}",
                "ls-files",
                "-z",
                "--others",
            ]
            done = subprocess.run(
                [*command, "--exclude-standard"], cwd=root, check=True, capture_output=True
            )
        except FileNotFoundError as error:
            raise ValueError(
                "git is not installed: it is needed to read .gitignore. Install it."
            ) from error
        except subprocess.CalledProcessError as error:
            raise ValueError(
                f"git cannot list {root}: {error.stderr.decode(errors='replace').strip()}"
            ) from error
    return sorted(name for name in done.stdout.decode().split("\0") if name)


def _why_not(root: Path, name: str) -> str | None:
    """Returns the reason to leave a file out, or None."""
    parts = PurePosixPath(name).parts
    if parts[0] in OUTPUTS and len(parts) > 1:
        return f"{parts[0]}/ holds outputs or data"
    if parts[:2] == RESULTS:
        return "results of past runs"
    if any(part in KEY_FOLDERS for part in parts):
        return "keys or caches"
    if any(fnmatch(parts[-1].lower(), pattern) for pattern in KEY_FILES):
        return "named like a file of keys"
    file = root / name
    if file.is_symlink():
        return "a link"
    return None if file.is_file() else "not a plain file"


def _check_size(upload: Package) -> None:
    if upload.num_bytes <= MAX_MIB * 2**20:
        return
    places = upload.places()
    largest = sorted(places, key=lambda name: -places[name].stat().st_size)[:3]
    raise ValueError(
        f"the tree has {upload.num_bytes / 2**20:.0f} MiB to upload, at most {MAX_MIB} are "
        f"allowed. The largest files: {', '.join(largest)}. Put data on the cluster's own storage, "
        "and its folder into .gitignore."
    )


def _check_text(upload: Package) -> None:
    secrets = {variable: value.encode() for variable, value in secret_values().items()}
    for name, file in upload.places().items():
        text = file.read_bytes()
        variable = next((key for key, value in secrets.items() if value in text), None)
        kind = f"the value of {variable}" if variable else _kind_of_secret(text)
        if kind:
            raise ValueError(
                f"{name} holds {kind}: nothing was uploaded. "
                f"Remove it, or put the file's name into .gitignore. {NO_SECRETS}"
            )
