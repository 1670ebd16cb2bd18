"""The report of an evaluation as one HTML file: numbers, pictures, curves and the model card, to decide by."""

from metasr.report.cases import Case, cases_of
from metasr.report.content import Champion, Report, Rule
from metasr.report.page import REPORT, write_report

__all__ = ["REPORT", "Case", "Champion", "Report", "Rule", "cases_of", "write_report"]
