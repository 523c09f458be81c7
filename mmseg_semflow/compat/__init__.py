"""What is missing beside today's libraries; nothing there is replaced.

Each module supplies names for one library that would not be imported without
them, and is used before that library is imported.
"""
