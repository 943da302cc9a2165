"""Pipeline stages: each is a command, a job and a Prefect form, declared once."""
