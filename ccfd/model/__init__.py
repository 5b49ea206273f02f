"""Frozen values and their rules. Nothing here does input or output or needs a third party."""
