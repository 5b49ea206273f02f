"""`make bench`: every benchmark, one after another, each beside its floor."""

import subprocess
import sys

NAMES = (
    "slice_create",
    "engine",
    "inbox",
    "recovery",
    "ipam",
    "placement",
    "ports",
    "fabric",
    "detour",
    "console",
)

for name in NAMES:
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
