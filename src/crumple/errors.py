"""Errors that are the user's to mend: one sentence says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A known failure; the command line prints its message and exits with 1."""


class ConfigError(UserError):
    """A configuration that cannot be used."""
