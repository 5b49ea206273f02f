"""Addresses: pools of numbers, subnets cut from blocks, single addresses."""
