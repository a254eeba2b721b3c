"""Samples to read: which ones, and what each of their tokens did."""

from isentropic.metrics.report.samples.pick import COLUMNS, Sample, Samples, pick_samples
from isentropic.metrics.report.samples.tokens import Decode

__all__ = ["COLUMNS", "Decode", "Sample", "Samples", "pick_samples"]
