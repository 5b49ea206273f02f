"""The commands for people: `ccfctl`."""
