"""Commands of the command line that have a file of their own; `tfconv.cli` has the others."""
