"""The broker looked at and set up through its management API: topology, policies, depths."""
