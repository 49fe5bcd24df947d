"""The rules that every connector must keep, and `check_connector`, which tries them: `connectrio check`."""

from connectrio.conformance._report import RULES, Finding, Report
from connectrio.conformance._suite import check_connector

__all__ = ["RULES", "Finding", "Report", "check_connector"]
