"""
The demo: the main job end to end, on its own servers, with made-up records of a state, told as a story.

It checks every statement about the runs before it prints it.
"""
