"""Repeatable side-by-side measurements; each prints a table, and one JSON line with --json."""
