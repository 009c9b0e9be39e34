import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from beamclip import provenance


def test_tags_name_the_revision_and_every_version_that_decides_results():
    tags = provenance.provenance_tags()
    assert tags["version.torch"] == version("torch")
    assert {"version.beamclip", "version.timm", "version.open_clip_torch", "version.ray", "version.mlflow", "git_revision"} <= tags.keys()
    assert re.fullmatch(r"none|[0-9a-f]{40}(-dirty)?", tags["git_revision"])


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 9), subprocess.CalledProcessError(1, "git")])
def test_without_git_or_a_checkout_the_revision_is_none(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.git_revision() == "none"


def test_a_change_in_the_checkout_shows(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    file = tmp_path / "provenance.py"
    file.touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert re.fullmatch("[0-9a-f]{40}", provenance.git_revision())  # a tag does not hide the commit
    file.write_text("changed")
    assert provenance.git_revision().endswith("-dirty")


def test_a_package_that_is_not_installed_is_said_so(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions() == {"no-such-package": "none"}


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["/opt/bin/beamclip", "train", "--set", "a=[1, 2]"], "beamclip train --set 'a=[1, 2]'"),
        (["sweeps/mine.py", "--data", "my images"], "python sweeps/mine.py --data 'my images'"),
        (["beamclip", "--tracking-uri", "postgresql://me:secret@host/db"], "beamclip --tracking-uri postgresql://…@host/db"),
        (["beamclip", "--data", "s3://bucket/a@b"], "beamclip --data s3://bucket/a@b"),
    ],
)
def test_the_command_line_can_be_typed_again_but_tells_no_password(monkeypatch, arguments, typed):
    monkeypatch.setattr(sys, "argv", arguments)
    assert provenance.command_line() == typed
