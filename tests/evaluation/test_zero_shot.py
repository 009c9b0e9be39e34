import torch

from beamclip.evaluation import zero_shot_logits, zero_shot_predict


def test_logits_are_cosines_whatever_the_lengths():
    torch.manual_seed(0)
    x, anchors = torch.randn(5, 8), torch.randn(3, 8)
    slow = torch.stack(
        [torch.stack([torch.cosine_similarity(row, a, dim=0) for a in anchors]) for row in x]
    )
    torch.testing.assert_close(zero_shot_logits(5 * x, anchors / 7), slow)
    assert zero_shot_logits(x.bfloat16(), anchors).dtype == torch.float32


def test_a_long_anchor_does_not_win_by_its_length():
    anchors = torch.tensor([[1.0, 0.0], [100.0, 100.0]])
    assert zero_shot_predict(torch.tensor([[1.0, 0.2], [0.9, 1.0]]), anchors).tolist() == [0, 1]
