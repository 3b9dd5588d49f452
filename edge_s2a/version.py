"""The version of this package; semantic versions (semver.org)."""

__version__ = "0.2.0"
