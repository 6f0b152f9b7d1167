"""
The demo: the main job end to end, on servers of its own, with a state's made-up records, told as a story.

What it tells, it has seen: every statement about the runs is checked before it is printed.
"""
