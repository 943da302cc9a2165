"""Jobs that outlive whoever started them: record, launchers, one life, and the doors to it."""
