"""rsync: copies of trees over channels; only what differs travels, to many targets at once, in either direction."""

from .report import Report, Skipped, TargetReport
from .rsync import RSync

__all__ = ["RSync", "Report", "Skipped", "TargetReport"]
