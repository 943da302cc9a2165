"""The report stage: two training runs in, a per-language speed-up report out."""

from flows.report.build import ReportConfig, write_report

__all__ = ["ReportConfig", "write_report"]
