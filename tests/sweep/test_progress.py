from beamclip.sweep.progress import ProgressBars


def test_a_new_label_ends_the_bar_before_it(capsys):
    with ProgressBars() as bars:
        for done in (10, 40, 100):
            bars("packing images", done, 100)
        bars("teacher", 5, 7)
    said = capsys.readouterr()
    assert said.out == ""
    assert "packing images: 100%" in said.err
    assert "5/7" in said.err


def test_a_total_may_change_and_progress_may_go_back(capsys):
    with ProgressBars() as bars:
        bars("trials", 8, 10)
        bars("trials", 4, 20)  # a trial went on from an older checkpoint
    assert "4/20" in capsys.readouterr().err


def test_two_passes_of_one_name_are_two_bars_and_what_was_done_before_is_no_rate(capsys):
    with ProgressBars() as bars:
        bars("teacher images", 900, 1000)
        bars("teacher images", 0, 50)
        bars("teacher images", 50, 50)
    said = capsys.readouterr().err
    assert "1000/1000" in said and "50/50" in said
    assert said.split("\r")[1].endswith("?/s]")  # 900 of them in no time is no speed


def test_nothing_is_drawn_before_anything_happens_and_a_line_can_be_said_any_time(capsys):
    with ProgressBars() as bars:
        bars("", 0, 0)
        bars.note("unheard")
        assert capsys.readouterr().err == ""
        bars.say("a line")
        bars("trials", 1, 2)
        bars.note("a note")
        bars.say("another")
    said = capsys.readouterr().err
    assert "a line\n" in said
    assert "another\n" in said
    assert "a note" in said


def test_closing_twice_does_nothing(capsys):
    bars = ProgressBars()
    bars("a", 1, 2)
    bars.close()
    bars.close()
    bars("a", 2, 2)  # the same label again is a new bar
    bars.close()
    assert "2/2" in capsys.readouterr().err
