"""Find out how a teacher's images must be normalized, and where that is written.

Weights files don't say it. open_clip then takes OpenAI's mean and std, which are wrong for many
models, and the teacher's embeddings get worse without any error.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transform import PreprocessCfg

from beamclip.config import TowerConfig, UserError
from beamclip.data.augmentation.render import PixelFormat
from beamclip.data.augmentation.resample import Interpolation
from beamclip.stores.paths import LOCAL_MODEL

_SETTINGS = ("mean", "std", "interpolation")
"""The settings of `TowerConfig` that are found here, and their keys in a `preprocess_cfg`."""

_CONFIG = "open_clip_config.json"
_HUB = "hf-hub:"

# open_clip resizes with one of these unless it trains.
_INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}


def pixel_format(model: Any, config: TowerConfig) -> tuple[PixelFormat, dict[str, str]]:
    """Return the input of a loaded teacher's image tower, and where its normalization is written.

    For each of mean, std and interpolation, the first of these that has it decides: the settings;
    open_clip's tag, or the `open_clip_config.json` of a folder or hub model; and the tags that
    open_clip lists for the same architecture, if all of them agree.

    Args:
        model: open_clip's model.
        config: the teacher's settings.

    Returns:
        The format, and the source of `mean`, `std` and `interpolation`, in words.

    Raises:
        UserError: a value is not known or can't be used, or the images are not square.
    """
    size = open_clip.get_model_preprocess_cfg(model)["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"teacher.model {config.model} takes images of {width} x {height} px; "
            "choose one that takes square images"
        )
    settings = {name: getattr(config, name) for name in _SETTINGS}
    found = {name: (value, f"teacher.{name}") for name, value in settings.items() if value}
    recorded, source = _recorded(config)
    for name in _SETTINGS:
        if name not in found and recorded.get(name) is not None:
            found[name] = (recorded[name], source)
    if len(found) < len(_SETTINGS):
        found = _from_known_tags(config, recorded) | found
    values = {name: value for name, (value, _) in found.items()}
    pixels = PixelFormat(
        height,
        _channels(values["mean"], "mean", config),
        _channels(values["std"], "std", config),
        _interpolation(values["interpolation"], config),
    )
    return pixels, {name: found[name][1] for name in _SETTINGS}


def describe_input(pixels: PixelFormat, sources: Mapping[str, str]) -> str:
    """Return a teacher's input in words: `192 px, mean 0.5 0.5 0.5, … (open_clip's tag openai)`.

    Args:
        pixels: the input.
        sources: where `mean`, `std` and `interpolation` come from; may be empty.
    """
    texts = {
        "mean": f"mean {_numbers(pixels.mean)}",
        "std": f"std {_numbers(pixels.std)}",
        "interpolation": pixels.interpolation,
    }
    size = f"{pixels.size} px"
    if len(set(sources.values())) <= 1:
        source = "".join(f" ({text})" for text in set(sources.values()))
        return ", ".join([size, *texts.values()]) + source
    return ", ".join([size, *(f"{text} ({sources[name]})" for name, text in texts.items())])


def _numbers(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _recorded(config: TowerConfig) -> tuple[Mapping[str, Any], str]:
    """Return the preprocessing that is recorded with the weights, and where.

    It is empty for a weights file.
    """
    if config.model.startswith((LOCAL_MODEL, _HUB)):
        return _read_config(config.model).get("preprocess_cfg") or {}, f"its {_CONFIG}"
    tag = config.pretrained
    if tag is not None and tag in open_clip.list_pretrained_tags_by_model(config.model):
        return _preprocess_of_tag(config.model, tag), f"open_clip's tag {tag}"
    return {}, ""


def _read_config(model: str) -> dict[str, Any]:
    """Return the `open_clip_config.json` of a folder or hub model that could be loaded."""
    if model.startswith(_HUB):
        # The model is loaded, so the file is in the hub's cache.
        path = Path(download_pretrained_from_hf(model.removeprefix(_HUB), _CONFIG))
    else:
        path = Path(model.removeprefix(LOCAL_MODEL)) / _CONFIG
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))


def _preprocess_of_tag(model: str, tag: str) -> dict[str, Any]:
    # What a tag doesn't set is open_clip's default.
    defaults = PreprocessCfg()
    chosen = open_clip.get_pretrained_cfg(model, tag)
    return {name: chosen.get(name) or getattr(defaults, name) for name in _SETTINGS}


def _from_known_tags(
    config: TowerConfig, recorded: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Return what all known weights of the architecture agree on, with the source.

    Raises:
        UserError: a value that is neither set nor recorded is not known.
    """
    names = _names_of_architecture(config.model)
    known = [
        _preprocess_of_tag(name, tag)
        for name in names
        for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    found: dict[str, tuple[Any, str]] = {}
    for name in _SETTINGS:
        values = {_hashable(preprocess[name]) for preprocess in known}
        if len(values) == 1:
            found[name] = (values.pop(), f"as all open_clip tags of {names[0]}")
    if {"mean", "std"} <= recorded.keys():
        # open_clip's files leave the interpolation out if it is the default.
        found.setdefault("interpolation", ("bicubic", "open_clip's default"))
    missing = [
        name
        for name in _SETTINGS
        if getattr(config, name) is None and recorded.get(name) is None and name not in found
    ]
    if missing:
        raise _unknown(config, missing, bool(known))
    return found


def _unknown(config: TowerConfig, missing: list[str], has_tags: bool) -> UserError:
    place = f"the weights file {config.pretrained}"
    if config.model.startswith((LOCAL_MODEL, _HUB)):
        place = f"its {_CONFIG}"
    reason = "open_clip has none for this architecture"
    if has_tags:
        reason = f"open_clip's tags of {config.model} differ"
    openai = PreprocessCfg()
    examples = {
        "mean": list(openai.mean),
        "std": list(openai.std),
        "interpolation": openai.interpolation,
    }
    settings = [f"teacher.{name}" for name in missing]
    values = " ".join(f"teacher.{name}={_compact(examples[name])}" for name in missing)
    return UserError(
        f"teacher.model {config.model} needs the {_enumerate(missing)} that it was trained with: "
        f"{place} has none, and {reason}; set {_enumerate(settings)} "
        f"(OpenAI's CLIP: {values})"
    )


def _enumerate(words: Sequence[str]) -> str:
    """Return words as `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _compact(value: Any) -> str:
    return str(value).replace(" ", "")


def _names_of_architecture(model: str) -> list[str]:
    """Return open_clip's names for a model's architecture."""
    if not model.startswith((LOCAL_MODEL, _HUB)):
        return [model]
    architecture = _read_config(model).get("model_cfg")
    return [
        name for name in open_clip.list_models() if open_clip.get_model_config(name) == architecture
    ]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _channels(value: Any, key: str, config: TowerConfig) -> tuple[float, float, float]:
    """Return the RGB values of `mean` or `std`. Like open_clip, accept one number for all three."""
    channels = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = map(float, channels)
        # As in `TowerConfig`. Some files have values for pixels of 0-255. NaN fails this too.
        in_range = all(0 <= channel <= 1 for channel in (red, green, blue))
        if not in_range or (key == "std" and 0 in (red, green, blue)):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"teacher.model {config.model} has preprocess_cfg.{key} {value} in its {_CONFIG}; "
            f"write three numbers from 0 to 1 there{', not 0' if key == 'std' else ''}"
        ) from None
    return red, green, blue


def _interpolation(value: Any, config: TowerConfig) -> Interpolation:
    if value not in _INTERPOLATIONS:
        raise UserError(
            f"teacher.model {config.model} has preprocess_cfg.interpolation {value} in its "
            f"{_CONFIG}; write bicubic or bilinear there"
        )
    return cast(Interpolation, _INTERPOLATIONS[value])
