"""Jobs that outlive the process that started them: records, launchers, states, actions."""
