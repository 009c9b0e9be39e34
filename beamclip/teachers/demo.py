"""Train the demo's teacher, a small CLIP in open_clip's format.

It takes about a minute on one core. It learns from scenes of handwriting that neither train, val
nor test of the demo data contains. Training has two stages: first the text tower alone learns to
tell captions of different digits apart, then both towers are trained on images and captions.

The trained weights are part of store keys, so they must be the same on every machine: training
runs on one thread, and the order of all random draws is fixed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.data import DIGIT_NAMES, TeacherScenes, teacher_scenes
from beamclip.stores import Progress, silent, write_json

Template = Callable[[str], str]

DEMO_TEACHER_VERSION = 2
"""Increase it whenever the trained weights change."""

TEXT_STEPS = 60
"""Steps of the first stage, on captions alone."""
STEPS = 800
"""Steps of the second stage, on images and captions."""
BATCH = 128
SCENES = 51200

# At 3e-3 the text transformer collapses, so it gets a peak rate of its own.
_PEAK_LR = 3e-3
_TEXT_LR = 1e-3
_WARMUP = 0.05
_WEIGHT_DECAY = 0.05

_CAPTIONS_PER_DIGIT = 3
# Captions name colors from half of the steps on. Colors are easy to learn, and would hide the
# digits if they were learned first.
_COLOR_PROBABILITY = 0.25

_MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
_MEAN = 0.5
_STD = 0.25
_PREPROCESS = {
    "mean": [_MEAN] * 3,
    "std": [_STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_TEMPLATES = (
    "{}",
    "{}.",
    "the number {}.",
    "the digit {}.",
    "a handwritten {}.",
    "a drawing of the number {}.",
)


class CaptionBatch(NamedTuple):
    """Captions with what they say.

    Attributes:
        tokens: int64 [N, L], ids into `Captions.vocabulary`.
        digits: int64 [N].
        colors: int64 [N], -1 if a caption names no color.
    """

    tokens: Tensor
    digits: Tensor
    colors: Tensor


@dataclass(frozen=True)
class Captions:
    """Every template with every digit, without and with each color.

    Attributes:
        tokens: int64 [T, K, 1 + C, L] for T templates, K digits and C colors: ids into
            `vocabulary`. The first of the 1 + C captions names no color.
        vocabulary: the tokenizer's ids that occur, sorted, int64 [V].
    """

    tokens: Tensor
    vocabulary: Tensor

    @classmethod
    def of(
        cls,
        templates: Sequence[Template],
        digits: Sequence[str],
        colors: Sequence[str],
        tokenizer: Any,
    ) -> "Captions":
        """Tokenize "a photo of a three.", "a photo of a red three." and so on."""
        names = [f"{color} {digit}".strip() for digit in digits for color in ("", *colors)]
        texts = [template(name) for template in templates for name in names]
        tokens: Tensor = tokenizer(texts)
        vocabulary, compact = torch.unique(tokens, return_inverse=True)
        return cls(compact.view(len(templates), len(digits), 1 + len(colors), -1), vocabulary)

    def draw(
        self, per_digit: int, color_probability: float, random: torch.Generator
    ) -> CaptionBatch:
        """Draw `per_digit` random captions for each of the K digits.

        Args:
            per_digit: captions per digit.
            color_probability: chance that a caption names a color, 0 to 1.
            random: source of all random numbers.

        Returns:
            K * per_digit captions, ordered by digit.
        """
        template_count, digit_count, color_choices, _ = self.tokens.shape
        digits = torch.arange(digit_count).repeat_interleave(per_digit)
        templates = torch.randint(template_count, digits.shape, generator=random)
        colors = torch.randint(1, color_choices, digits.shape, generator=random)
        colors[torch.rand(digits.shape, generator=random) >= color_probability] = 0
        return CaptionBatch(self.tokens[templates, digits, colors], digits, colors - 1)


@contextmanager
def small_vocabulary(model: Any, vocabulary: Tensor) -> Iterator[None]:
    """Restrict the text tower to these tokens within the block, numbered by their position.

    A step over the embeddings of all 49 408 tokens would cost more than the images do, and the
    unused ones would only decay. The order of tokens is kept because open_clip reads the text's
    embedding at its largest id, the end of text.
    """
    full_embedding = model.token_embedding
    model.token_embedding = nn.Embedding(
        len(vocabulary),
        full_embedding.embedding_dim,
        _weight=full_embedding.weight[vocabulary].detach().clone(),
    )
    try:
        yield
    finally:
        with torch.no_grad():
            full_embedding.weight[vocabulary] = model.token_embedding.weight
        model.token_embedding = full_embedding


def contrastive_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Return CLIP's symmetric loss for batches in which captions repeat.

    With CLIP's own one-to-one targets, every repeated digit would count as a mismatch. As in UniCL
    (Yang et al., CVPR 2022), the target is spread evenly over all matches. Rows and columns without
    any match in the batch are left out.

    Args:
        logits: scaled cosines of images and captions, [B, C].
        matches: True if the caption is true of the image, bool [B, C].
    """
    image_to_text = _soft_target_cross_entropy(logits, matches)
    text_to_image = _soft_target_cross_entropy(logits.T, matches.T)
    return (image_to_text + text_to_image) / 2


def _soft_target_cross_entropy(logits: Tensor, matches: Tensor) -> Tensor:
    has_match = matches.any(dim=1)
    targets = matches[has_match].float()
    targets = targets / targets.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits[has_match], targets)


def train_demo_teacher(folder: Path, progress: Progress = silent, seed: int = 0) -> None:
    """Train the demo's teacher and write it where open_clip loads it as `local-dir:FOLDER`.

    Writes `open_clip_config.json` and `open_clip_model.safetensors`. Takes about a minute on one
    core.

    Args:
        folder: an existing folder; these files in it are replaced.
        progress: called with a label, steps done and steps in all.
        seed: seed of weights, scenes and captions. The global random state is left as it was.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), _single_thread():
        torch.manual_seed(seed)
        model = _new_model()
        scenes = teacher_scenes(SCENES, seed)
        tokenizer = open_clip.SimpleTokenizer(context_length=_MODEL["text_cfg"]["context_length"])
        captions = Captions.of(_all_templates(), DIGIT_NAMES, scenes.colour_names, tokenizer)
        with small_vocabulary(model, captions.vocabulary):
            _train_text_tower(model, captions, torch.Generator().manual_seed(seed))
            _train_both_towers(
                model, scenes, captions, torch.Generator().manual_seed(seed), progress
            )
    _save(model, folder)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Run torch on one thread within the block.

    One thread gives the same weights on any number of cores. It also stays fast when the machine
    has other work, while several threads would wait for each other in every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _new_model() -> Any:
    """Return a CLIP with random weights that learn fast.

    CLIP's own initialization is made for long training. Here token embeddings start far apart and
    the logit scale starts lower.
    """
    import open_clip

    model = open_clip.CLIP(**_MODEL)
    torch.nn.init.normal_(model.token_embedding.weight)
    torch.nn.init.constant_(model.logit_scale, math.log(8))
    return model


def _all_templates() -> list[Template]:
    """Return our templates and CLIP's 80, so that the teacher knows the words of all prompts."""
    import open_clip

    own = [template.format for template in _TEMPLATES]
    return own + list(open_clip.OPENAI_IMAGENET_TEMPLATES)


def _train_text_tower(model: Any, captions: Captions, random: torch.Generator) -> None:
    """Train the text tower to tell digits apart before it is paired with any image.

    Two captions match if they name the same digit. All captions look alike to the initial text
    tower, and towers that start together spend their first hundred steps on that.
    """
    optimizer = torch.optim.AdamW(model.parameters(), _TEXT_LR)
    for _ in range(TEXT_STEPS):
        first = captions.draw(4, 0.0, random)
        second = captions.draw(4, 0.0, random)
        first_embeddings = model.encode_text(first.tokens, normalize=True)
        second_embeddings = model.encode_text(second.tokens, normalize=True)
        optimizer.zero_grad()
        logits = 8 * first_embeddings @ second_embeddings.T
        loss = contrastive_loss(logits, first.digits[:, None] == second.digits)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _train_both_towers(
    model: Any,
    scenes: TeacherScenes,
    captions: Captions,
    random: torch.Generator,
    progress: Progress,
) -> None:
    """Train image and text tower together for `STEPS` steps."""
    model.visual.to(memory_format=torch.channels_last).train()
    model.train()
    other_parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("transformer.")
    ]
    text_transformer = list(model.transformer.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": other_parameters}, {"params": text_transformer}], weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [_PEAK_LR, _TEXT_LR], total_steps=STEPS, pct_start=_WARMUP
    )
    for step, batch in enumerate(_scene_batches(scenes, random), 1):
        color_probability = 0.0 if step <= STEPS / 2 else _COLOR_PROBABILITY
        drawn = captions.draw(_CAPTIONS_PER_DIGIT, color_probability, random)
        same_digit = batch.digits[:, None] == drawn.digits
        color_agrees = (drawn.colors == -1) | (batch.colors[:, None] == drawn.colors)
        image_embeddings, text_embeddings, scale = model(batch.images, drawn.tokens)
        optimizer.zero_grad()
        logits = scale * image_embeddings @ text_embeddings.T
        contrastive_loss(logits, color_agrees & same_digit).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == STEPS:
            progress("training the demo teacher", step, STEPS)


class _SceneBatch(NamedTuple):
    """Normalized images fp32 [B, 3, 32, 32], and their digits and colors, int64 [B]."""

    images: Tensor
    digits: Tensor
    colors: Tensor


def _scene_batches(scenes: TeacherScenes, random: torch.Generator) -> Iterator[_SceneBatch]:
    """Yield `STEPS` batches, going through the scenes in a new random order each time."""
    digits = torch.from_numpy(scenes.labels)
    colors = torch.from_numpy(scenes.colours)
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
    passes = -(-STEPS * BATCH // len(digits))
    order = torch.cat([torch.randperm(len(digits), generator=random) for _ in range(passes)])
    for start in range(0, STEPS * BATCH, BATCH):
        rows = order[start : start + BATCH]
        pixels = (images[rows].float() / 255 - _MEAN) / _STD
        yield _SceneBatch(pixels, digits[rows], colors[rows])


def _save(model: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    path = folder / "open_clip_model.safetensors"
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path)
    # safetensors creates files that only their owner can read.
    path.chmod(0o644)
    config = {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS}
    write_json(folder / "open_clip_config.json", config)
