"""The lab: a whole testbed of several hosts on this one machine, for tests and demonstrations.

`python -m tests.lab up --hosts 2 --dir DIR` raises it; `Lab` is the same for tests.
"""

from tests.lab.lab import Lab

__all__ = ["Lab"]
