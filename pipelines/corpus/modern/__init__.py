"""Profile `modern`: rules on single pages and near-duplicates that mC4 does not have.

Plain functions and frozen dataclasses; nothing here knows Beam or a file layout.
"""
