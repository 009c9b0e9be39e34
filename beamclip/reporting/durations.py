"""Format durations for tables, reports and the plan of a sweep."""


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: "7s", "2m05s" or "3h07m".

    Args:
        seconds: 0 or more; rounded to whole seconds below an hour, else cut to whole minutes.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
