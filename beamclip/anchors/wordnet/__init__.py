"""Look up the senses of class names in WordNet 3.0. Imports no torch."""

from beamclip.anchors.wordnet.class_lists import (
    ClassName,
    KnownDataset,
    check_classes,
    find_known_dataset,
    known_dataset_synsets,
    read_class_list,
)
from beamclip.anchors.wordnet.lexicon import WORDNET_ID, Lexicon, Synset
from beamclip.anchors.wordnet.readers import Excerpt, WordNetFiles, open_lexicon
from beamclip.anchors.wordnet.vocabularies import VOCABULARIES, open_vocabulary

__all__ = [
    "VOCABULARIES",
    "WORDNET_ID",
    "ClassName",
    "Excerpt",
    "KnownDataset",
    "Lexicon",
    "Synset",
    "WordNetFiles",
    "check_classes",
    "find_known_dataset",
    "known_dataset_synsets",
    "open_lexicon",
    "open_vocabulary",
    "read_class_list",
]
