"""Tariffs in the store: their versions and parts, and how raters get to know the newest."""
