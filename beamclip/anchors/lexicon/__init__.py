"""From a class name to its senses in WordNet 3.0. Imports no torch."""

from beamclip.anchors.lexicon.classes import ClassName, KnownSet, check_classes, known_set, known_synsets, read_class_list
from beamclip.anchors.lexicon.excerpt import Excerpt
from beamclip.anchors.lexicon.opening import open_lexicon
from beamclip.anchors.lexicon.synsets import WORDNET_ID, Lexicon, Synset
from beamclip.anchors.lexicon.vocabularies import VOCABULARIES, open_vocabulary
from beamclip.anchors.lexicon.wndb import WordNetFiles

__all__ = [
    "VOCABULARIES",
    "WORDNET_ID",
    "ClassName",
    "Excerpt",
    "KnownSet",
    "Lexicon",
    "Synset",
    "WordNetFiles",
    "check_classes",
    "known_set",
    "known_synsets",
    "open_lexicon",
    "open_vocabulary",
    "read_class_list",
]
