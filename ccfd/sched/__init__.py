"""Placement: which host gets a VM, and the claim on what it takes there."""
