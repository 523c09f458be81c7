"""Fixtures of the tools: a config, a checkpoint, and how to call a tool."""

from tool_calls import call_tool, files, run_tool, shared_files  # noqa: F401
