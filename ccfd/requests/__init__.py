"""The shape of what goes in and out: events and results, the same by broker and by HTTP."""
