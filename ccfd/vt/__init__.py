"""libvirt: domains, disks and base images on the hosts, each host in a lane of its own."""
