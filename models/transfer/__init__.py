"""Make one model from another: upcycling and distillation."""
