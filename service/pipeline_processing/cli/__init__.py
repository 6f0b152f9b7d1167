"""The command line: parse, build, call, print, and nothing else."""
