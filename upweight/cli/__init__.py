"""The command `upweight`: a file a noun.

The SDK alone has no command: what it is made of is not installed then.
"""
