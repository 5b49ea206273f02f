"""A tenant's own OpenFlow controller: an os-ken application, in an environment of its own."""
