"""Zero-shot logits and predictions."""

import torch

from beamclip.evaluation import zero_shot_logits, zero_shot_predict


def test_logits_are_cosines_for_vectors_of_any_length():
    torch.manual_seed(0)
    x = torch.randn(5, 8)
    anchors = torch.randn(3, 8)
    expected = torch.cosine_similarity(x[:, None], anchors[None], dim=-1)
    torch.testing.assert_close(zero_shot_logits(5 * x, anchors / 7), expected)
    assert zero_shot_logits(x.bfloat16(), anchors).dtype == torch.float32


def test_a_long_anchor_does_not_win_by_its_length():
    anchors = torch.tensor([[1.0, 0.0], [100.0, 100.0]])
    assert zero_shot_predict(torch.tensor([[1.0, 0.2], [0.9, 1.0]]), anchors).tolist() == [0, 1]
