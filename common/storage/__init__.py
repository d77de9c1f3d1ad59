"""The store: its URL, connections to it of every kind, and the embedded one."""
