"""
The demo: the main job end to end, on servers of its own, with made-up records of a state, told as a story.

Every statement about the runs is checked before it is printed.
"""
