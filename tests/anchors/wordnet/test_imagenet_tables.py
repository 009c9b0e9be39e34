import subprocess
import sys

import pytest

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.config import UserError


def test_every_class_of_imagenet_has_lemmas_and_a_definition():
    assert len(set(tables.imagenet_1k())) == 1000 and len(set(tables.imagenet_21k())) == 21841
    for ids in (tables.imagenet_1k(), tables.imagenet_21k()):
        assert all(tables.lemmas()[id][0] and tables.definitions()[id] for id in ids)


def test_labels_are_in_timms_order():
    from timm.data import ImageNetInfo

    assert list(tables.imagenet_1k()) == ImageNetInfo("imagenet-1k").label_names()
    assert list(tables.imagenet_21k()) == ImageNetInfo("imagenet-22k").label_names()


WITHOUT_TORCH = """
import sys, types
import beamclip
# Only these modules are imported, not what their package imports.
sys.modules["beamclip.anchors"] = package = types.ModuleType("beamclip.anchors")
package.__path__ = [beamclip.__path__[0] + "/anchors"]
sys.modules["torch"] = sys.modules["open_clip"] = None  # importing them fails
from beamclip.anchors.wordnet import ClassName, Excerpt, open_vocabulary
from beamclip.anchors.senses import choose_senses
senses = choose_senses([ClassName("crane"), ClassName("flamingo")], Excerpt())
print(senses[0].synset.id, len(open_vocabulary("imagenet-21k")))
"""


@pytest.mark.slow
def test_senses_need_no_torch():
    assert subprocess.check_output([sys.executable, "-c", WITHOUT_TORCH], text=True).split() == [
        "n02012849",
        "21841",
    ]


def test_a_missing_table_is_reported():
    with pytest.raises(UserError, match=r"timm's table none.txt can't be read; install timm again"):
        tables._read_lines("none.txt")
