from beamclip.tracking import Artifacts


def test_files_come_back_and_missing_ones_are_none(uri, finished, tmp_path):
    files = Artifacts(uri)
    (tmp_path / "page" / "figures").mkdir(parents=True)
    (tmp_path / "page" / "report.md").write_text("hello")
    (tmp_path / "page" / "figures" / "one.png").write_bytes(b"\x89PNG")
    assert files.write(finished.run_id, tmp_path / "page", "report") is None
    assert files.read(finished.run_id, "report/report.md") == b"hello"
    assert files.read(finished.run_id, "report/figures/one.png") == b"\x89PNG"
    assert files.read(finished.run_id, "nothing.json") is None
    assert files.read("0" * 32, "config.yaml") is None


def test_a_place_that_takes_no_files_is_told_in_a_line(uri, finished, tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "a").touch()
    said = Artifacts(uri).write("0" * 32, tmp_path / "page", "report")
    assert said and "\n" not in said
