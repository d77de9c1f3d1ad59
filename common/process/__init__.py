"""Processes: kept alive, replaced under load, their listening sockets handed over."""
