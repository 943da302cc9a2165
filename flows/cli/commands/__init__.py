"""The subcommands of `mswitch`, a module each, loaded only when called."""
