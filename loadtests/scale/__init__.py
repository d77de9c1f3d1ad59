"""How the system does with a million prefixes and a million accounts: `python -m loadtests.scale`."""
