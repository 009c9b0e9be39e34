import pytest
from helpers import tiny

from beamclip.cli.stores import pack_images
from beamclip.config import UserError
from beamclip.data import pack
from beamclip.stores.paths import stores_root


@pytest.fixture
def disk_check(monkeypatch):
    """Raised by the check of free disk space, with the number of bytes needed."""

    def stop(needed, root):
        raise UserError(f"stop at {needed}")

    monkeypatch.setattr("beamclip.cli.stores.check_disk_space", stop)


@pytest.mark.usefixtures("disk_check")
def test_packing_prints_its_size_before_it_begins(preset, tmp_path, capsys):
    with pytest.raises(UserError, match="stop at 614400"):
        pack_images(tiny.experiment(preset, tmp_path), repair=False)
    assert f"200 images, 32 px raw: 614 kB, into {tmp_path}/stores" in capsys.readouterr().out


@pytest.mark.usefixtures("disk_check")
def test_packing_needs_no_space_for_images_that_are_packed_already(preset, tmp_path):
    experiment = tiny.experiment(preset, tmp_path)
    pack(experiment.data, stores_root(experiment))
    with pytest.raises(UserError, match="stop at 0"):
        pack_images(experiment, repair=False)
