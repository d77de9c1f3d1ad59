"""The journals of the accounts as proof: audited line by line, archived to files, and trimmed after that."""
