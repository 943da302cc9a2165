"""Stages: each is a command, a job and a form, declared once."""
