"""Train the demo's teacher, a small CLIP in open_clip's format.

Training takes about a minute on one core. The training images are scenes with handwriting that is
neither in train, val nor test of the demo data. There are two stages: first the text tower alone
learns to tell captions of different digits apart, then both towers are trained on images and
captions.

The trained weights are part of store keys, so they must not depend on the number of cores or on
other random numbers of the process. That is why training runs on one thread and seeds every draw.
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
"""Images per step of the second stage."""
SCENES = 51200
"""Images in the training set: half as many as the second stage needs, so it sees each twice."""

# At 3e-3 the text transformer collapses, so it gets its own peak rate.
_PEAK_LR = 3e-3
_TEXT_LR = 1e-3
# Share of the steps.
_WARMUP = 0.05
_WEIGHT_DECAY = 0.05

_CAPTIONS_PER_DIGIT = 3
# Applies in the second half of the steps; before that, no caption names a color. Colors are easy to
# learn, and would hide the digits if they were learned first.
_COLOR_PROBABILITY = 0.25
# CLIP starts at 1 / 0.07, about 14.
_INITIAL_LOGIT_SCALE = 8

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
    """Captions, and the digits and colors they name.

    Attributes:
        tokens: int64 [N, L], ids into `Captions.vocabulary`.
        digits: index of each caption's digit, int64 [N].
        colors: index of each caption's color, int64 [N]; -1 if it names none.
    """

    tokens: Tensor
    digits: Tensor
    colors: Tensor


@dataclass(frozen=True)
class Captions:
    """Captions from every template for every digit, without a color and with each color.

    Attributes:
        tokens: int64 [T, K, 1 + C, L] for T templates, K digits and C colors: ids into
            `vocabulary`. The first of the 1 + C captions names no color.
        vocabulary: the tokenizer's ids that occur in the captions, sorted, int64 [V].
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
        """Tokenize "a photo of a three.", "a photo of a red three." and so on.

        Args:
            templates: functions from a name, such as "red three", to a caption.
            digits: names of the K digits.
            colors: names of the C colors.
            tokenizer: open_clip's tokenizer.
        """
        names = []
        for digit in digits:
            names += [digit, *(f"{color} {digit}" for color in colors)]
        texts = [template(name) for template in templates for name in names]
        tokens: Tensor = tokenizer(texts)
        vocabulary, compact_tokens = torch.unique(tokens, return_inverse=True)
        shape = (len(templates), len(digits), 1 + len(colors), -1)
        return cls(compact_tokens.view(shape), vocabulary)

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
        # Index 0 of the third dimension holds the captions without a color.
        colors[torch.rand(digits.shape, generator=random) >= color_probability] = 0
        return CaptionBatch(self.tokens[templates, digits, colors], digits, colors - 1)


@contextmanager
def small_vocabulary(model: Any, vocabulary: Tensor) -> Iterator[None]:
    """Restrict the text tower to the tokens of a vocabulary within the block.

    Token ids are then positions in `vocabulary`. A step over the embeddings of all 49,408 tokens
    would cost more than the images do, and weight decay would shrink the unused ones. `vocabulary`
    must be sorted: open_clip reads a text's embedding at its largest id, the end-of-text token.

    Args:
        model: a CLIP of open_clip. Its embeddings of these tokens are updated when the block ends.
        vocabulary: ids of the tokens, sorted, int64 [V].
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

    CLIP's own targets are one-to-one, so a repeated digit would count as a mismatch. Here, as in
    UniCL (Yang et al., CVPR 2022), the target is spread evenly over all matches. Rows and columns
    without a match in the batch are left out.

    Args:
        logits: scaled cosines of B images and C captions, [B, C].
        matches: True if the caption describes the image, bool [B, C].

    Returns:
        The mean of both directions, a scalar.
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
    """Train the demo's teacher and save it in a folder.

    open_clip loads it as `local-dir:FOLDER`. Training takes about a minute on one core.

    Args:
        folder: an existing folder. `open_clip_config.json` and `open_clip_model.safetensors` in it
            are replaced.
        progress: called with a label, the number of steps done, and the number of all steps.
        seed: seed of weights, scenes and captions. The global random state does not change.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), _single_thread():
        torch.manual_seed(seed)
        model = _new_model()
        scenes = teacher_scenes(SCENES, seed)
        tokenizer = open_clip.SimpleTokenizer(context_length=_MODEL["text_cfg"]["context_length"])
        captions = Captions.of(_all_templates(), DIGIT_NAMES, scenes.color_names, tokenizer)
        # Each stage has its own generator, so its draws don't depend on the other stage.
        with small_vocabulary(model, captions.vocabulary):
            _train_text_tower(model, captions, torch.Generator().manual_seed(seed))
            _train_both_towers(
                model, scenes, captions, torch.Generator().manual_seed(seed), progress
            )
    _save(model, folder)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Run torch on one thread within the block.

    With one thread, the weights are the same on any number of cores. Several threads would also be
    slow on a busy machine, since they wait for each other in every operation.
    """
    thread_count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(thread_count)


def _new_model() -> Any:
    """Return a CLIP with random weights from which it learns fast.

    CLIP's own initialization is meant for long training. Here the token embeddings start further
    apart, and the logit scale starts lower.
    """
    import open_clip

    model = open_clip.CLIP(**_MODEL)
    torch.nn.init.normal_(model.token_embedding.weight)
    torch.nn.init.constant_(model.logit_scale, math.log(_INITIAL_LOGIT_SCALE))
    return model


def _all_templates() -> list[Template]:
    """Return our templates and CLIP's 80, so that the teacher knows the words of all prompts."""
    import open_clip

    templates = [template.format for template in _TEMPLATES]
    return templates + list(open_clip.OPENAI_IMAGENET_TEMPLATES)


def _train_text_tower(model: Any, captions: Captions, random: torch.Generator) -> None:
    """Train the text tower to tell digits apart before it is paired with any image.

    Two captions match if they name the same digit. The initial text tower maps all captions to
    nearly the same embedding. Without this stage, joint training would spend its first hundred
    steps on that.
    """
    optimizer = torch.optim.AdamW(model.parameters(), _TEXT_LR)
    for _ in range(TEXT_STEPS):
        first = captions.draw(4, 0.0, random)
        second = captions.draw(4, 0.0, random)
        first_embeddings = model.encode_text(first.tokens, normalize=True)
        second_embeddings = model.encode_text(second.tokens, normalize=True)
        optimizer.zero_grad()
        logits = _INITIAL_LOGIT_SCALE * first_embeddings @ second_embeddings.T
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
    # Model and optimizer; the text transformer has its own learning rate.
    model.visual.to(memory_format=torch.channels_last)
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
    for step, scene_batch in enumerate(_scene_batches(scenes, random), 1):
        color_probability = 0.0 if step <= STEPS / 2 else _COLOR_PROBABILITY
        caption_batch = captions.draw(_CAPTIONS_PER_DIGIT, color_probability, random)
        # A caption describes a scene if the digits agree, and the colors if it names one.
        same_digit = scene_batch.digits[:, None] == caption_batch.digits
        names_no_color = caption_batch.colors == -1
        same_color = scene_batch.colors[:, None] == caption_batch.colors
        matches = same_digit & (names_no_color | same_color)
        image_embeddings, text_embeddings, scale = model(scene_batch.images, caption_batch.tokens)
        optimizer.zero_grad()
        logits = scale * image_embeddings @ text_embeddings.T
        loss = contrastive_loss(logits, matches)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == STEPS:
            progress("training the demo teacher", step, STEPS)


class _SceneBatch(NamedTuple):
    """Scenes for one step.

    Attributes:
        images: normalized pixels, fp32 [B, 3, 32, 32].
        digits: index of each scene's digit, int64 [B].
        colors: index of each scene's color, int64 [B].
    """

    images: Tensor
    digits: Tensor
    colors: Tensor


def _scene_batches(scenes: TeacherScenes, random: torch.Generator) -> Iterator[_SceneBatch]:
    """Yield `STEPS` batches. Each pass over the scenes has a new random order."""
    digits = torch.from_numpy(scenes.labels)
    colors = torch.from_numpy(scenes.colors)
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
    passes = math.ceil(STEPS * BATCH / len(digits))
    order = torch.cat([torch.randperm(len(digits), generator=random) for _ in range(passes)])
    for start in range(0, STEPS * BATCH, BATCH):
        rows = order[start : start + BATCH]
        pixels = (images[rows].float() / 255 - _MEAN) / _STD
        yield _SceneBatch(pixels, digits[rows], colors[rows])


def _save(model: Any, folder: Path) -> None:
    """Write weights and configuration as open_clip reads them from a folder."""
    from safetensors.torch import save_file

    path = folder / "open_clip_model.safetensors"
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path)
    # safetensors creates files that only their owner can read.
    path.chmod(0o644)
    config = {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS}
    write_json(folder / "open_clip_config.json", config)
