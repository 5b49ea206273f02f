"""`make bench`: every benchmark, one after another, each beside its floor."""

import subprocess
import sys

for name in ("slice_create", "engine", "inbox", "recovery", "ipam", "placement"):
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
