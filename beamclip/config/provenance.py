"""Provenance of results: the code's revision, versions, and the command that was typed."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_MAX_LENGTH = 5000
"""MLflow accepts tags of 8000 characters, older servers 5000."""

_USER = re.compile(r"(?<!/)//(?:[^/\s]*:(?!//)(?:(?!://)\S)*|[^/\s]*)@")
"""User and password of an address, up to its last @: a password may hold / and @ itself."""
_IN_QUERY = re.compile(
    r"([?&;][\w.-]*(?:pass|pwd|secret|token|signature|credential|key|\bsig)[\w.-]*=)"
    r"""[^&\s]*?(?=["'\])},;]*(?:[&\s]|$))""",
    re.IGNORECASE,
)
"""A secret in the query of an address."""

_PACKAGES = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow", "numpy")
_OWN_PATH = "beamclip/config/provenance.py"


def git_revision() -> str:
    """Return the commit of the beamclip checkout this package runs from.

    With `-dirty` at its end if files differ, and `none` outside a checkout. A package that is
    installed inside another repository, in its virtual environment for example, is not tracked
    there, and that repository's commit is never reported.
    """
    file = Path(__file__).resolve()
    # Fails unless this very file is tracked.
    tracked = _git(file.parent, "ls-files", "--full-name", "--error-unmatch", file.name)
    if tracked != _OWN_PATH:
        return "none"
    revision = _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return revision or "none"


def _git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints, or an empty string if it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide results, without importing them."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "none"
    return installed


def provenance_tags() -> dict[str, str]:
    """Return revision and versions as MLflow tags."""
    tags = {"git_revision": git_revision()}
    for name, number in versions().items():
        tags[f"version.{name}"] = number
    return tags


def program() -> list[str]:
    """Return the words that start this program again, without its options.

    A script is named by its path as it was typed, the command by its name.
    """
    first = sys.argv[0]
    return ["python", first] if first.endswith(".py") else ["beamclip"]


def command_line() -> str:
    """Return the command that was typed, quoted for a shell, without passwords in addresses."""
    return without_passwords(shlex.join([*program(), *sys.argv[1:]]))[:_MAX_LENGTH]


def without_passwords(text: str) -> str:
    """Return a text with the secrets in its addresses replaced.

    `//user:secret@host` becomes `//…@host`, and `?password=secret` becomes `?password=…`. What may
    be a secret is replaced too.
    """
    return _IN_QUERY.sub(r"\1…", _USER.sub("//…@", text))


def holds_password(address: str) -> bool:
    """Return whether an address holds a secret, which the name of a user is not."""
    without_user = re.sub(r"//[^/@:\s]*@", "//…@", address)
    return without_passwords(address) not in (address, without_user)
