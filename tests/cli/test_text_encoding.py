import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamclip.config import Experiment, UserError
from beamclip.stores.paths import check_writable

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, os, sys
from beamclip.cli import text_encoding

text_encoding.use_utf8(None)
print(json.dumps([sys.argv[1:], sys.getfilesystemencoding(), os.environ.get("PYTHONUTF8")]))
print("\\u2713 caf\\u00e9")
"""

LOCALES = {
    "utf-8": {"LC_ALL": "C.utf8"},
    "c": {"LC_ALL": "C"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": "en_US.ISO-8859-1"},
}


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """A folder with a Latin-1 locale, which few machines have installed; None without localedef."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


def run(name, locales, words, **more):
    if name == "latin-1" and locales is None:
        pytest.skip("localedef makes no Latin-1 locale here")
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PYTHON"))
    }
    env = kept | {"PYTHONPATH": str(ROOT), "LOCPATH": str(locales or "")} | LOCALES[name] | more
    if name == "utf-8":
        del env["LOCPATH"]
    words = [word.encode() for word in words]
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, check=False)


@pytest.mark.parametrize("name", LOCALES)
def test_words_and_output_are_utf8_in_every_locale(name, locales, tmp_path):
    program = tmp_path / "café.py"
    program.write_text(PROGRAM, encoding="utf-8")
    result = run(name, locales, [str(program), "--data", "/x/café ✓"])
    facts, said = result.stdout.splitlines()
    assert said.decode() == "✓ café"
    assert facts.startswith(rb'[["--data", "/x/caf\u00e9 \u2713"], "utf-8", ')


@pytest.mark.parametrize("name", ["utf-8", "latin-1"])
def test_letters_that_the_output_lacks_are_replaced(name, locales, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    result = run(name, locales, [str(program)], PYTHONIOENCODING="latin-1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1] == b"? caf\xe9"


@pytest.mark.parametrize("name", LOCALES)
def test_a_program_on_standard_input_is_not_restarted(name, locales):
    """It could not be read a second time."""
    result = run(name, locales, ["-c", PROGRAM])
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("name", ["ascii", "latin-1"])
def test_the_command_reads_a_class_list_and_writes_a_storage_outside_ascii(name, locales, tmp_path):
    """`beamclip anchors` prints the names; before, this was a UnicodeEncodeError."""
    folder = tmp_path / "café"
    folder.mkdir()
    program = folder / "run.py"
    program.write_text(
        "from beamclip.cli.main import exit_code_of\n"
        "from beamclip.cli.text_encoding import use_utf8\n"
        "from beamclip.config import Experiment\n"
        "from beamclip.stores.paths import check_writable\n"
        "import sys\n"
        "use_utf8(None)\n"
        "sys.exit(exit_code_of(lambda: check_writable(Experiment(\n"
        "    storage={'path': sys.argv[1]}))))\n",
        encoding="utf-8",
    )
    result = run(name, locales, [str(program), str(folder / "läufe")])
    assert result.returncode == 0, result.stderr
    assert (folder / "läufe").is_dir() and len(list(folder.iterdir())) == 2


def test_a_program_in_another_locale_is_told_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    experiment = Experiment.model_validate({"storage": {"path": str(tmp_path / "café")}})
    with pytest.raises(
        UserError, match=r"caf.* as iso8859-1 here, .*; start Python with PYTHONUTF8=1"
    ):
        check_writable(experiment)
    assert not list(tmp_path.iterdir())
