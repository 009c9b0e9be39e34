"""Where a result comes from: the code's revision and the versions it ran with."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LONGEST = 5000  # MLflow takes 8000 letters, older servers 5000

_USER = re.compile(r"(?<!/)//(?:[^/\s]*:(?!//)(?:(?!://)\S)*|[^/\s]*)@")
"""Up to the last @ of an address: a password may hold / and @ itself, though it should not."""
_IN_QUERY = re.compile(
    r"""([?&;][\w.-]*(?:pass|pwd|secret|token|signature|credential|key|\bsig)[\w.-]*=)[^&\s]*?(?=["'\])},;]*(?:[&\s]|$))""",
    re.IGNORECASE,
)

_PACKAGES = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow", "numpy")


def git_revision() -> str:
    """The commit of the checkout this package runs from, with `-dirty` where files differ; `none` outside a checkout."""
    folder = Path(__file__).parent
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return (
            subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            or "none"
        )
    except (OSError, subprocess.SubprocessError):
        return "none"


def versions() -> dict[str, str]:
    """Installed versions of what decides results, without importing any of it."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def provenance_tags() -> dict[str, str]:
    """Both, as tags."""
    return {"git_revision": git_revision()} | {
        f"version.{name}": number for name, number in versions().items()
    }


def program() -> list[str]:
    """The words that start this program again, without its options: a script by its path as it was given, `beamclip` by its name."""
    first = sys.argv[0]
    return ["python", first] if first.endswith(".py") else ["beamclip"]


def command_line() -> str:
    """What was typed, as a shell takes it; passwords in addresses are left out."""
    return without_passwords(shlex.join([*program(), *sys.argv[1:]]))[:_LONGEST]


def without_passwords(text: str) -> str:
    """`//user:secret@host` becomes `//…@host`, and `?password=secret` becomes `?password=…`. What is in doubt is left out, too."""
    return _IN_QUERY.sub(r"\1…", _USER.sub("//…@", text))


def holds_password(address: str) -> bool:
    """Whether an address holds more of a secret than the name of a user."""
    return without_passwords(address) not in (address, re.sub(r"//[^/@:\s]*@", "//…@", address))
