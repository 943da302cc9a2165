"""Where predictions lie in a run directory."""

from models.training.run_directory import PREDICTIONS, SELECTED

__all__ = ["PREDICTIONS", "SELECTED", "TEST_READS"]

#: How often test was read, beside the predictions of a task.
TEST_READS = "test_reads.json"
