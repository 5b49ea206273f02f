"""The events: one file a family, each the story of its events from decision to settlement."""
