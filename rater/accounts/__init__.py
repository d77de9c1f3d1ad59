"""Accounts: their bytes, what changes them and what the store replies, what operators see and do."""
