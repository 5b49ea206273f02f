"""The engine: how a stored request becomes effects, and what happens when something dies.

It knows no word of the domain: handlers decide and settle, effects do and undo.
"""
