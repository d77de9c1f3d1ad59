"""The API described: parameters, results and errors as types, as schemas and as documents."""
