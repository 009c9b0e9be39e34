import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from beamclip.teachers.demo import contrastive_loss


def slow_loss(logits, true):
    """Written out: from each image to the captions, then back."""
    total = 0.0
    for scores, truths in ((logits.tolist(), true.tolist()), (logits.T.tolist(), true.T.tolist())):
        rows = []
        for row, truth in zip(scores, truths, strict=True):
            if any(truth):
                log_sum = math.log(sum(math.exp(score) for score in row))
                rows.append(
                    sum(
                        log_sum - score
                        for score, is_true in zip(row, truth, strict=True)
                        if is_true
                    )
                    / sum(truth)
                )
        total += sum(rows) / len(rows)
    return total / 2


def test_the_loss_equals_the_equation_written_out():
    torch.manual_seed(0)
    logits, true = torch.randn(6, 5), torch.rand(6, 5) < 0.4
    true[2] = False
    assert contrastive_loss(logits, true).item() == pytest.approx(slow_loss(logits, true), rel=1e-5)


def test_with_one_truth_each_it_is_clips_loss():
    image, text = F.normalize(torch.randn(4, 8), dim=-1), F.normalize(torch.randn(4, 8), dim=-1)
    expected = open_clip.ClipLoss()(image, text, torch.tensor(10.0))
    assert contrastive_loss(
        10 * image @ text.T, torch.eye(4, dtype=torch.bool)
    ).item() == pytest.approx(expected.item(), rel=1e-5)
