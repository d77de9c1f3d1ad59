"""The work of a cluster: the rating engine, the accounts, the tariff loader and the worker loop."""
