"""One self-contained page, and tables and figures next to it."""

from reports.page._compare import write_comparison
from reports.page._report import report_folder, write_report

__all__ = ["report_folder", "write_comparison", "write_report"]
