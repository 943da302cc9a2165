"""Run chains of stages, from text to a report: `mswitch demo` and `mswitch evidence`."""
