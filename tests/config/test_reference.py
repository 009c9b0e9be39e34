from pathlib import Path

from beamclip.config import Experiment, known_keys
from beamclip.config.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_setting_is_in_the_reference():
    text = reference()
    assert [key for key in known_keys(Experiment) if f"`{key}`" not in text] == []


def test_the_page_names_every_setting():
    page = PAGE.read_text(encoding="utf-8")
    missing = [key for key in known_keys(Experiment) if f"`{key}`" not in page]
    assert missing == [], "run python -m beamclip.config.reference > docs/configuration.md"
