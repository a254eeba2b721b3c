"""The report of a run, of several, of a sweep or of branches.

It is one HTML file that needs no network, and PNGs. The way of the data: `run_data` and `samples`
read a folder, `charts` and `tables` turn it into plain data, `templates` into HTML.
"""

from isentropic.metrics.report.write import write_report

__all__ = ["write_report"]
