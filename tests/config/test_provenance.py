import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from beamclip.config import provenance


def test_tags_name_the_revision_and_every_version_that_decides_results():
    tags = provenance.provenance_tags()
    assert tags["version.torch"] == version("torch")
    assert {
        "version.beamclip",
        "version.timm",
        "version.open_clip_torch",
        "version.ray",
        "version.mlflow",
        "git_revision",
    } <= tags.keys()
    assert re.fullmatch(r"none|[0-9a-f]{40}(-dirty)?", tags["git_revision"])


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("git"),
        subprocess.TimeoutExpired("git", 9),
        subprocess.CalledProcessError(1, "git"),
    ],
)
def test_without_git_or_a_checkout_the_revision_is_none(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.git_revision() == "none"


def checkout(folder):
    """A git repository in a folder; returns a function that runs git in it."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y"]

    def run(*words):
        subprocess.run([*git, *words], check=True, capture_output=True)

    run("init", "-q")
    return run


def copy_of_provenance(folder, monkeypatch):
    """The module as if it were installed in a folder."""
    file = folder / "beamclip" / "config" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    return file


def test_uncommitted_changes_are_recorded(tmp_path, monkeypatch):
    file = copy_of_provenance(tmp_path, monkeypatch)
    git = checkout(tmp_path)
    for words in (["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        git(*words)
    assert re.fullmatch("[0-9a-f]{40}", provenance.git_revision())  # a tag does not hide the commit
    file.write_text("changed")
    assert provenance.git_revision().endswith("-dirty")


@pytest.mark.parametrize("ignored", [True, False])
def test_the_commit_of_another_repository_is_never_reported(tmp_path, monkeypatch, ignored):
    git = checkout(tmp_path)
    (tmp_path / "their_code.py").touch()
    (tmp_path / ".gitignore").write_text("venv/\n" if ignored else "")
    git("add", ".")
    git("commit", "-qm", "theirs")
    copy_of_provenance(tmp_path / "venv" / "lib" / "site-packages", monkeypatch)
    assert provenance.git_revision() == "none"


def test_a_copy_inside_another_repository_has_no_revision(tmp_path, monkeypatch):
    git = checkout(tmp_path)
    copy_of_provenance(tmp_path / "vendor", monkeypatch)
    git("add", ".")
    git("commit", "-qm", "theirs")
    assert provenance.git_revision() == "none"


def test_a_missing_package_is_recorded_as_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions() == {"no-such-package": "none"}


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["/opt/bin/beamclip", "train", "--set", "a=[1, 2]"], "beamclip train --set 'a=[1, 2]'"),
        (["sweeps/mine.py", "--data", "my images"], "python sweeps/mine.py --data 'my images'"),
        (
            ["beamclip", "--tracking-uri", "postgresql://me:secret@host/db"],
            "beamclip --tracking-uri postgresql://…@host/db",
        ),
        (["beamclip", "--data", "s3://bucket/a@b"], "beamclip --data s3://bucket/a@b"),
        (
            ["beamclip", "--storage", "s3://KEY:SEC/RET@bucket/x"],
            "beamclip --storage s3://…@bucket/x",
        ),
        (
            ["beamclip", "--tracking-uri", "mysql://h/d?password=s'x&a=1"],
            "beamclip --tracking-uri 'mysql://h/d?password=…&a=1'",
        ),
    ],
)
def test_the_recorded_command_line_can_be_typed_again_and_has_no_password(
    monkeypatch, arguments, typed
):
    monkeypatch.setattr(sys, "argv", arguments)
    assert provenance.command_line() == typed


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("postgresql://u:p%40ss@h/db", "postgresql://…@h/db"),
        ("postgresql://u:p/ss@h/db", "postgresql://…@h/db"),
        ("postgresql://u:p@ss@h/db", "postgresql://…@h/db"),
        ("postgresql://u@corp:p@s/s@h/db", "postgresql://…@h/db"),
        ("https://token@h", "https://…@h"),
        ("postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u&password=…"),
        (
            '{"uri": "mysql://h/db?ssl=1&PASSWD=a/b@c", "b": 1}',
            '{"uri": "mysql://h/db?ssl=1&PASSWD=…", "b": 1}',
        ),
        ("https://h/f?X-Amz-Signature=abc&sig=d e", "https://h/f?X-Amz-Signature=…&sig=… e"),
    ],
)
def test_secrets_in_uris_are_left_out(told, left):
    assert provenance.without_passwords(told) == left


@pytest.mark.parametrize(
    "text",
    [
        "see //a and user@host", "sqlite:////home/me@corp/x", "sqlite:////u:x@y/mlflow.db",
        "http://h:5000 a@b", "s3://b/x:y@z", "[http://h:80,s3://b/a@b]", "s3://b?region=x",
    ],
)  # fmt: skip
def test_text_without_secrets_is_not_changed(text):
    assert provenance.without_passwords(text) == text


def test_a_user_name_alone_is_not_a_password():
    told = [
        "http://h",
        "postgresql://me@h/db",
        "postgresql://me:x@h/db",
        "postgresql://me@h/db?password=x",
    ]
    assert [provenance.holds_password(one) for one in told] == [False, False, True, True]
