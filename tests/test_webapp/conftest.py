"""Fixtures of this folder's tests."""

from tool_calls import call_tool  # noqa: F401
