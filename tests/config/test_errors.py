import logging

import pytest

from beamclip.config.errors import mute_loggers, nearest


def fail_loudly():
    with mute_loggers("talkative", ""):
        logging.getLogger("talkative.child").error("unheard")
        logging.getLogger().error("unheard")
        raise RuntimeError


def test_loggers_are_silent_inside_the_block_and_restored_after_it(caplog):
    logger = logging.getLogger("talkative")
    logger.setLevel(logging.INFO)
    with pytest.raises(RuntimeError):
        fail_loudly()
    assert logger.level == logging.INFO
    logger.warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


@pytest.mark.parametrize(
    ("name", "known", "says"),
    [
        ("cms", ["csm", "compress", "swav"], "; did you mean csm?"),
        ("temp", ["temperature", "terms"], "; did you mean terms or temperature?"),
        ("xyz", ["csm", "swav"], "; known are csm, swav"),
        ("xyz", [f"name{number:02}" for number in range(12)], "; known are name00, name01"),
        ("xyz", [f"name{number:02}" for number in range(13)], ""),
        ("xyz", [], ""),
    ],
)
def test_only_near_names_are_suggested_and_else_few_are_listed(name, known, says):
    suggestion = nearest(name, known)
    assert suggestion.startswith(says) and bool(suggestion) == bool(says)
