import logging

import pytest

from beamclip.config.errors import mute_loggers


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
