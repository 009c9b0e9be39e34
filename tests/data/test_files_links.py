import os

import pytest

from beamclip.config import UserError
from beamclip.data.files import Files


def test_links_are_what_they_lead_to(tmp_path):
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/x.bin").write_bytes(b"0123456789")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/folder").symlink_to(tmp_path / "real")
    (tmp_path / "set/file.bin").symlink_to(tmp_path / "real/x.bin")
    (tmp_path / "set/nowhere").symlink_to(tmp_path / "gone")
    files = Files(str(tmp_path / "set"))
    assert files.folders() == ["folder"] and files.folders("folder") == ["deep"]
    before = files.below("")
    assert [(e.path, e.size) for e in before] == [
        ("file.bin", 10),
        ("folder/x.bin", 10),
        ("nowhere", 0),
    ]
    os.utime(tmp_path / "real/x.bin", (1, 1))
    assert [new == old for new, old in zip(files.below(""), before, strict=True)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("target", [".", "..", "../../other/back"])
def test_a_link_that_leads_back_is_a_sentence(tmp_path, target):
    for folder in ("set/a", "other/back"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "other/back/again").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/loop").symlink_to(target)
    with pytest.raises(
        UserError, match="is a link to one of its own parent folders; remove the link"
    ):
        Files(str(tmp_path / "set")).below("")
