"""Which lexicon there is on this machine."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from logging import getLogger
from pathlib import Path
from zipfile import BadZipFile
from zipfile import Path as ZipPath

from beamclip.anchors.lexicon.excerpt import Excerpt
from beamclip.anchors.lexicon.synsets import Lexicon
from beamclip.anchors.lexicon.wndb import FILES, Folder, WordNetFiles
from beamclip.config import UserError

_log = getLogger(__name__)


@cache
def open_lexicon() -> Lexicon:
    """The whole of WordNet 3.0 where it is installed, else the excerpt that comes with beamclip.

    Looked for in $WNSEARCHDIR, $WNHOME/dict, Debian's folder and NLTK's data folders. Folders that hold another version are passed over
    with a warning, unless a variable names them.

    Raises:
        UserError: $WNSEARCHDIR or $WNHOME names a folder without WordNet 3.0.
    """
    return _named() or _found() or Excerpt()


def _named() -> Lexicon | None:
    for variable, inside in (("WNSEARCHDIR", ""), ("WNHOME", "dict")):
        if os.environ.get(variable):
            folder = Path(os.environ[variable], inside)
            if not _is_wordnet(folder):
                raise UserError(f"${variable} says that WordNet is in {folder}, which has no {' and '.join(FILES)}; mend or unset it")
            return WordNetFiles(folder)
    return None


def _found() -> Lexicon | None:
    for place in _usual_places():
        try:
            folder = ZipPath(place, "wordnet/") if place.suffix == ".zip" and place.is_file() else place
            if _is_wordnet(folder):
                return WordNetFiles(folder)
        except (UserError, OSError, BadZipFile) as error:
            _log.warning("WordNet passed over: %s", error)
    return None


def _usual_places() -> Iterator[Path]:
    yield from (Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
    own = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    roots = [Path.home(), Path(sys.prefix), Path(sys.prefix, "share"), Path(sys.prefix, "lib")]
    system = [Path("/usr/share"), Path("/usr/local/share"), Path("/usr/lib"), Path("/usr/local/lib")]
    for folder in (*own, *(root / "nltk_data" for root in (*roots, *system))):
        yield folder / "corpora" / "wordnet"
        yield folder / "corpora" / "wordnet.zip"  # NLTK leaves this one packed


def _is_wordnet(folder: Folder) -> bool:
    return all((folder / name).is_file() for name in FILES)
