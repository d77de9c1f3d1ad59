"""Calls as carriers make them, for locust: authorized, charged while they last, settled, and reckoned up.

`loadtests/locustfile.py` is what locust is given; `python -m loadtests.calls` does everything by itself.
"""
