"""Velatura against other engines, on the same work. `main` is the driver and needs the standard library alone; the peers
run as processes of their own in an environment that holds their packages."""
