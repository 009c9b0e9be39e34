"""Explain in one sentence why a teacher's weights can't be loaded.

open_clip and torch say it in many lines. torch also advises to unpickle the file, which could run
code of its author.
"""

import re
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import shorten

from beamclip.config.errors import first_line
from beamclip.stores.file_kinds import describe_differences, file_kind

_SAFETENSORS = "a safetensors file"

# Keys under which training scripts keep the weights, next to the epoch and the optimizer.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "ema", "net", "module")

_OTHER_MODEL = "give the model whose weights these are, or other weights"

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_QUOTED = re.compile(r'"([^"]*)"')
_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[([\d, ]*)\]\)"
)


def loading_error(error: Exception, path: Path | None) -> str:
    """Return the cause in one line, with what to do if that is known.

    Args:
        error: what open_clip raised.
        path: the file of weights; None if they come from a tag or the hub, or are not found.
    """
    file = "its weights file" if path is None else str(path)
    text = _ESCAPES.sub("", str(error))
    kind = "" if path is None else _describe(path)
    if ";" in kind:
        return f"{file} is {kind}"
    # open_clip chooses the reader by the ending.
    named = path is not None and path.suffix == ".safetensors"
    if path is not None and _was_reading(error) and (kind == _SAFETENSORS) != named:
        ending = ".safetensors" if kind == _SAFETENSORS else ".bin"
        return f"{file} is {kind}, but its name says otherwise; rename it to {path.stem}{ending}"
    if "weights_only" in text or "Weights only load failed" in text:
        return _unpickling_error(text, file)
    if "Error(s) in loading state_dict" in text:
        described = f"{file} is {kind}, but its" if kind else "its"
        return f"{described} weights don't fit the model: {_differences(text)}"
    if "Required pretrained weights" in text:
        return "no weights were found; put open_clip_model.safetensors there"
    # The text of a KeyError is only the missing key.
    reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
    reason = shorten(_ESCAPES.sub("", reason), 300, placeholder=" …")
    # Otherwise the model's configuration is wrong, not the file.
    if not kind or not _was_reading(error):
        return reason
    # open_clip resizes position embeddings before it compares the keys.
    if isinstance(error, AssertionError):
        return f"{file} is {kind}, but its weights don't fit the model ({reason}); {_OTHER_MODEL}"
    if isinstance(error, AttributeError | StopIteration | TypeError):
        return (
            f"{file} is {kind}, but not a state_dict; save one: "
            "torch.save(model.state_dict(), FILE)"
        )
    return f"{file} is {kind}, but {reason}"


def _was_reading(error: Exception) -> bool:
    """Return True if open_clip was reading weights when it raised the error."""
    return any(
        frame.name == "load_checkpoint" for frame in traceback.extract_tb(error.__traceback__)
    )


def _describe(path: Path) -> str:
    """Return what a file is; with the advice after a semicolon if it can't be weights."""
    kind, advice = file_kind(path)
    return f"{kind}; {advice}" if advice else kind


def _unpickling_error(text: str, file: str) -> str:
    found = _GLOBAL.search(text)
    if found is None:
        return (
            f"{file} is a torch checkpoint that is damaged or holds other Python objects than "
            "weights; save its weights alone: torch.save(model.state_dict(), FILE)"
        )
    return (
        f"{file} is a torch checkpoint that holds other Python objects than weights "
        f"({found[1]}), which are not loaded, since they can run code; save its weights alone: "
        "torch.save(model.state_dict(), FILE)"
    )


def _differences(text: str) -> str:
    """Return which keys and shapes differ, from the error of `load_state_dict`, and what to do."""
    missing: list[str] = []
    unexpected: list[str] = []
    for line in text.splitlines():
        if "Missing key(s)" in line:
            missing = _QUOTED.findall(line)
        if "Unexpected key(s)" in line:
            # open_clip removes `module.` and leaves nothing of a key that is only `module`.
            unexpected = [name or "module" for name in _QUOTED.findall(line)]
    shapes = [f"{name} ({saved} for {expected})" for name, saved, expected in _SHAPES.findall(text)]
    return describe_differences(missing, unexpected, shapes) + f"; {_advice(missing, unexpected)}"


def _advice(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    wrappers = [name for name in unexpected if name in _WRAPPERS]
    if wrappers:
        keys = " or ".join(map(repr, wrappers))
        return f"save the weights under {keys} alone: torch.save(checkpoint[{wrappers[0]!r}], FILE)"
    known = set(missing)
    for name in unexpected:
        prefix = _prefix_of(name, known)
        if prefix:
            return (
                f"save them again without {prefix!r} in front of the keys: "
                f"{{key.removeprefix({prefix!r}): value for key, value in weights.items()}}"
            )
    return _OTHER_MODEL


def _prefix_of(name: str, known: Collection[str]) -> str:
    """Return what precedes a known key, such as `module._orig_mod.`, or nothing."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        if ".".join(parts[count:]) in known:
            return ".".join(parts[:count]) + "."
    return ""
