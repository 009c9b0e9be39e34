"""Read a sweep back: trial groups, significance, importance, tables, plots and the report."""
