"""Reports of runs, made from the files of their folders alone."""

from compressm.report.comparison import Row, compare
from compressm.report.names import short_names, states_text
from compressm.report.reading import read_run
from compressm.report.records import Outcome, RunRecord
from compressm.report.write import Report, write_report

__all__ = [
    "Outcome",
    "Report",
    "Row",
    "RunRecord",
    "compare",
    "read_run",
    "short_names",
    "states_text",
    "write_report",
]
