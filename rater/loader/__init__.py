"""Tariff files into the store: read, checked as a whole, published as a version.

`command` is `ratel load`, `load` its steps in order: `files` reads, in `pieces`; `kinds`, `rates`,
`plans` and `fields` turn objects into values, `quick` the plain ones; `items` keeps them with their
places; `assembly` puts them together by tenant, `check` finds what is suspicious, `report` keeps what
there is to say. Versions in the store: `rater.tariffs.store`; `diff` compares two of them.
"""
