"""Jobs that outlive whoever started them: record, launchers, and the loop that follows them."""
