"""Fixtures of the tools: how to call one."""

from tool_calls import call_tool  # noqa: F401
