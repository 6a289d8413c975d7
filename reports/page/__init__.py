"""One self-contained page, with its tables and figures beside it."""

from reports.page._page import write_report

__all__ = ["write_report"]
