from beamclip.distributed.tune import TrialSlots


def test_so_many_have_their_turn_and_keep_it_until_they_are_over():
    turns = TrialSlots(2)
    assert [turns.take(name) for name in "abca"] == [True, True, False, True]
    turns.end("b")
    assert [turns.take(name) for name in "cb"] == [True, False]
    turns.end("never began")
    turns.end("a")
    assert turns.take("b")
