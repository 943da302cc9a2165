"""Chains of stages from text to a report: the demo, and the evidence."""
