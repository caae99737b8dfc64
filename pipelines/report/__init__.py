"""The report: one self-contained HTML page that explains a run to a person in two minutes."""

from pipelines.report.page import write_report

__all__ = ["write_report"]
