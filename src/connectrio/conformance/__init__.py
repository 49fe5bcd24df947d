"""What every connector must keep to, tried on one: the rules behind `connectrio check`."""

from connectrio.conformance._findings import RULES, Finding, Report
from connectrio.conformance._suite import check_connector

__all__ = ["RULES", "Finding", "Report", "check_connector"]
