"""Record where results come from: the code's revision, package versions and the typed command."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_MAX_LENGTH = 5000
"""Largest length of a tag, in characters. MLflow allows 8000, older servers 5000."""

# `(?<!/)` skips paths such as sqlite:////home/me@corp. `(?!://)` ends a password before the next
# address in the same text.
_USER = re.compile(r"(?<!/)//(?:[^/\s]*:(?!//)(?:(?!://)\S)*|[^/\s]*)@")
"""User and password of an address. They end at its last @, since a password may contain / and @."""
# The lookahead leaves quotes and brackets behind the secret in place: addresses also occur in JSON.
_IN_QUERY = re.compile(
    r"([?&;][\w.-]*(?:pass|pwd|secret|token|signature|credential|key|\bsig)[\w.-]*=)"
    r"""[^&\s]*?(?=["'\])},;]*(?:[&\s]|$))""",
    re.IGNORECASE,
)
"""Key and value of a secret in the query of an address, such as `?password=secret`."""

_PACKAGES = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow", "numpy")
_OWN_PATH = "beamclip/config/provenance.py"
"""Path of this file in beamclip's repository."""


def git_revision() -> str:
    """Return the commit of the beamclip checkout this package runs from.

    The commit ends in `-dirty` if tracked files differ from it. The result is `none` outside a
    checkout. A package may also be installed inside another repository, for example in its virtual
    environment: the result is `none` too, never the commit of that repository.
    """
    file = Path(__file__).resolve()
    # Fails unless a repository tracks this very file.
    tracked = _git(file.parent, "ls-files", "--full-name", "--error-unmatch", file.name)
    if tracked != _OWN_PATH:
        return "none"
    # `--exclude=*` ignores tags, which `describe` would print in place of the commit.
    revision = _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return revision or "none"


def _git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints, or an empty string if it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on, by package name.

    Imports none of them. A package that is not installed has the version `none`.
    """
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "none"
    return installed


def provenance_tags() -> dict[str, str]:
    """Return the revision and all versions as MLflow tags."""
    tags = {"git_revision": git_revision()}
    for name, number in versions().items():
        tags[f"version.{name}"] = number
    return tags


def program() -> list[str]:
    """Return the command that starts this program again, without its options.

    It is `python` and the path as typed for a script, and `beamclip` for the installed command.
    """
    script = sys.argv[0]
    return ["python", script] if script.endswith(".py") else ["beamclip"]


def command_line() -> str:
    """Return the typed command, quoted for a shell, without the passwords in addresses.

    It is cut to the length that an MLflow tag may have.
    """
    return without_passwords(shlex.join([*program(), *sys.argv[1:]]))[:_MAX_LENGTH]


def without_passwords(text: str) -> str:
    """Return a text with the secrets in its addresses replaced.

    `//user:secret@host` becomes `//…@host`, and `?password=secret` becomes `?password=…`. A user
    name alone is replaced too, since it may be a token.
    """
    return _IN_QUERY.sub(r"\1…", _USER.sub("//…@", text))


def holds_password(address: str) -> bool:
    """Return True if an address contains a secret. A user name alone does not count as one."""
    # `without_passwords` also replaces a user name alone. An address that changed only by this
    # contains no secret.
    without_user = re.sub(r"//[^/@:\s]*@", "//…@", address)
    return without_passwords(address) not in (address, without_user)
