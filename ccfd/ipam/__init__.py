"""Addresses: pools of numbers, subnets cut from blocks, single addresses."""

from ccfd.ipam.interface import Ipam

__all__ = ["Ipam"]
