"""The commands of the command line, which `tfconv.cli` lists.

A command is a module that adds itself to the parser; nothing of it imports TensorFlow before it has
looked at its arguments and called `process.start`.
"""
