"""Metrics of supervised tasks."""
