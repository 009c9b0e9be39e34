from beamclip.sweep.progress import ProgressBars


def test_a_new_label_ends_the_bar_before_it(capsys):
    with ProgressBars() as bars:
        for done in (10, 40, 100):
            bars("packing images", done, 100)
        bars("teacher", 5, 7)
    output = capsys.readouterr()
    assert output.out == ""
    assert "packing images: 100%" in output.err
    assert "5/7" in output.err


def test_a_total_may_change_and_progress_may_go_back(capsys):
    with ProgressBars() as bars:
        bars("trials", 8, 10)
        bars("trials", 4, 20)  # a trial continued from an older checkpoint
    assert "4/20" in capsys.readouterr().err


def test_two_passes_of_one_label_are_two_bars_and_earlier_work_is_not_in_the_rate(capsys):
    with ProgressBars() as bars:
        bars("teacher images", 900, 1000)
        bars("teacher images", 0, 50)
        bars("teacher images", 50, 50)
    output = capsys.readouterr().err
    assert "1000/1000" in output and "50/50" in output
    assert output.split("\r")[1].endswith("?/s]")


def test_no_bar_is_drawn_without_a_label_and_lines_can_be_written_any_time(capsys):
    with ProgressBars() as bars:
        bars("", 0, 0)
        bars.set_postfix("no bar")
        assert capsys.readouterr().err == ""
        bars.write("a line")
        bars("trials", 1, 2)
        bars.set_postfix("a note")
        bars.write("another")
    output = capsys.readouterr().err
    assert "a line\n" in output
    assert "another\n" in output
    assert "a note" in output


def test_closing_twice_does_nothing(capsys):
    bars = ProgressBars()
    bars("a", 1, 2)
    bars.close()
    bars.close()
    bars("a", 2, 2)  # the same label again is a new bar
    bars.close()
    assert "2/2" in capsys.readouterr().err
