"""Workflows as releases have stored them: a newer ccfd carries out the lists that it finds.

Each file holds the rows of a database in which a request had just been decided, the log of its
journal to the end, and how it ended. `python -m tests.stored` writes those that are missing, into
the folder of the release that is in work. Once a release is out its files stay as they are.
"""
