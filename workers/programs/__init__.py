"""Reading the programs that users upload: `.pt2` archives and allowed factories.

Importing the package imports no torch: the isolated check sets its limits before torch comes in.
"""
