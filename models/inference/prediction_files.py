"""Where predictions lie in a run directory."""

PREDICTIONS = "predictions"
#: Which step was best on validation.
SELECTED = "selected.json"
#: How often test was read, beside the predictions of a task.
TEST_READS = "test_reads.json"
