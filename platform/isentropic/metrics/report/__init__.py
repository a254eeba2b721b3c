"""The report of a run, of several, of a sweep or of branches: one HTML file that needs no network, and PNGs."""

from isentropic.metrics.report.write import write_report

__all__ = ["write_report"]
