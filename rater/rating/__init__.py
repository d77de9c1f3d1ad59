"""The rating engine: pure functions over an immutable compiled tariff.

`snapshot` compiles tariffs, `spans` prices a call, `session_time` says how long one may last,
`call_cost` writes the answer; `intervals` and `schedule` find what applies at an instant.
"""
