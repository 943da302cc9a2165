"""Subcommands of `mswitch` that are not stages, a module each."""
