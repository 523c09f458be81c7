"""Fixtures of the comparison's tool."""

from tool_calls import call_tool  # noqa: F401
