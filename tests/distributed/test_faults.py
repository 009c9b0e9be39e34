"""Kill processes in the middle of a teacher pass: the stores end up the same, byte for byte."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BEAMCLIP = str(Path(sys.executable).with_name("beamclip"))
# Views of each of 144 images, encoded one by one: a pass of some seconds, in three shards.
VIEWS = 24


@pytest.fixture(scope="module")
def environment():
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "COLUMNS": "140"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def embedding(environment, preset):
    """Start `beamclip embed` into a storage."""
    settings = [f"views.stored={VIEWS}", "teacher.batch_size=1", "teacher.actors=[1,1]"]

    def start(storage):
        words = [BEAMCLIP, "embed", "--preset", str(preset), "--storage", str(storage)]
        words += [word for setting in settings for word in ("--set", setting)]
        return subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    return start


def finish(process):
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


def encoded(output):
    """Return the number of images the teacher saw, from the output of a command."""
    return int(re.search(r"the teacher encoded ([\d,]+) images", output).group(1).replace(",", ""))


def records(storage):
    return {
        path: path.stat().st_mtime_ns
        for path in storage.glob("stores/embeddings/.*.partial/shards/*.json")
    }


def wait_for_a_shard(process, storage):
    until = time.time() + 120
    while not records(storage) and time.time() < until:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return records(storage)


def stores(storage):
    """Return the content of all finished embedding stores."""
    paths = [
        path
        for path in storage.glob("stores/embeddings/[0-9a-f]*/**/*")
        if path.is_file() and path.name != "stamps.json"
    ]
    return {str(path.relative_to(storage)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def undisturbed_storage(environment, preset, tmp_path_factory):
    """The storage of the same command if nothing is killed."""
    storage = tmp_path_factory.mktemp("undisturbed")
    words = [
        BEAMCLIP,
        "embed",
        "--preset",
        str(preset),
        "--storage",
        str(storage),
        "--set",
        f"views.stored={VIEWS}",
    ]
    subprocess.run(
        [*words, "--set", "teacher.batch_size=1"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=180,
    )
    return storage


@pytest.fixture(scope="module")
def undisturbed(undisturbed_storage):
    """The stores that the same command writes if nothing is killed."""
    written = stores(undisturbed_storage)
    # Three shards of train, one of val and test.
    assert sum("rows-" in name for name in written) == 4
    return written


@pytest.fixture
def prepared(undisturbed_storage, tmp_path):
    """A storage that lacks only the training images' embeddings."""
    storage = tmp_path / "prepared"
    shutil.copytree(undisturbed_storage, storage)
    (training,) = {path.parent for path in storage.glob("stores/embeddings/*/rows-00002.npy")}
    shutil.rmtree(training)
    return storage


def test_a_killed_teacher_is_replaced_and_the_pass_continues(embedding, undisturbed, prepared):
    process = embedding(prepared)
    wait_for_a_shard(process, prepared)
    killed = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "MapWorker" in " ".join(child.cmdline())
    ]
    assert killed
    for child in killed:
        child.kill()
    code, output = finish(process)
    assert code == 0, output
    assert stores(prepared) == undisturbed


def test_a_killed_driver_leaves_finished_shards_and_the_next_continues(
    embedding, undisturbed, prepared
):
    process = embedding(prepared)
    wait_for_a_shard(process, prepared)
    process.kill()
    process.communicate(timeout=60)
    _wait_until_quiet(prepared)
    kept = records(prepared)
    code, output = finish(embedding(prepared))
    assert code == 0 and 0 < encoded(output) < 144 * VIEWS
    assert kept and stores(prepared) == undisturbed


def _wait_until_quiet(storage):
    """Wait until the actors of a dead driver have finished the shards they were working on."""
    seen = records(storage)
    since = time.time()
    while time.time() - since < 3:
        time.sleep(0.2)
        if records(storage) != seen:
            seen = records(storage)
            since = time.time()


def test_a_killed_cluster_is_an_error_and_the_next_command_continues(
    embedding, undisturbed, prepared
):
    process = embedding(prepared)
    wait_for_a_shard(process, prepared)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    code, output = finish(process)
    assert code != 0 and "Traceback" not in output
    assert "finished shards are kept: run the same command again to continue" in output
    code, output = finish(embedding(prepared))
    assert code == 0 and 0 < encoded(output) < 144 * VIEWS
    assert stores(prepared) == undisturbed


def test_two_commands_started_together_encode_every_image_once(embedding, undisturbed, tmp_path):
    both = [embedding(tmp_path), embedding(tmp_path)]
    results = [finish(process) for process in both]
    assert [code for code, _ in results] == [0, 0], results
    assert sum(encoded(output) for _, output in results) == 144 * VIEWS + 56
    assert stores(tmp_path) == undisturbed


def test_a_flipped_byte_is_found_named_and_repaired(
    environment, preset, undisturbed_storage, undisturbed, tmp_path
):
    shutil.copytree(undisturbed_storage, tmp_path, dirs_exist_ok=True)
    shard = next(path for path in tmp_path.glob("stores/embeddings/*/rows-00001.npy"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    words = [
        BEAMCLIP,
        "sweep",
        "--preset",
        str(preset),
        "--storage",
        str(tmp_path),
        "--set",
        f"views.stored={VIEWS}",
    ]
    words += ["--set", "teacher.batch_size=1"]
    result = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert result.returncode == 2
    assert (
        f"beamclip: {shard} has changed since it was written (its checksum); "
        "run again with --repair" in result.stderr
    )
    assert "Traceback" not in result.stderr
    result = subprocess.run(
        [BEAMCLIP, "embed", "--repair", *words[2:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0 and encoded(result.stdout) == 64 * VIEWS  # that shard alone
    assert stores(tmp_path) == undisturbed
