from dataclasses import replace

from beamclip.reporting.origins import selection_section
from beamclip.reporting.results import costs_section


def test_the_cost_of_a_shared_initial_student_is_counted_once(swept):
    """A student that starts from another includes its cost, which the sweep paid once."""
    start, *others = swept.trials[:3]
    trials = [replace(start, metrics={"cost/device_seconds": 100.0})]
    both = {"cost/start_device_seconds": 100.0}
    trials += [
        replace(row, metrics={"cost/device_seconds": seconds} | both)
        for row, seconds in zip(others, (170.0, 150.0), strict=True)
    ]
    assert (
        "All 3 trials together took 3m40s of device time."
        in costs_section(replace(swept, trials=tuple(trials))).text
    )


def test_the_text_describes_the_test_that_was_used(swept):
    assert "Welch" in " ".join(selection_section(swept).text) and "with other seeds" in " ".join(
        selection_section(swept).text
    )
    assert "The seeds 0, 1 were planned for every group, and all have results." in " ".join(
        selection_section(swept).text
    )
    lost = replace(
        swept, trials=(replace(swept.trials[0], metrics={}, status="FAILED"), *swept.trials[1:])
    )
    assert (
        f"; 1 of {len(swept.groups)} lack the result of one or more and are not compared"
        in " ".join(selection_section(lost).text)
    )
    once = replace(swept, trials=tuple(row for row in swept.trials if row.settings["seed"] == "0"))
    text = " ".join(selection_section(once).text)
    assert "One seed (0) a trial" in text and "Newcombe" in text and "Welch" not in text
