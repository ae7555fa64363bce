"""Held-in and general suites, scoring with intervals, failure modes."""
